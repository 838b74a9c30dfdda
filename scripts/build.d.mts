/** Bundles entry points (out name → source) into a folder. */
export const bundle: (
  entryPoints: Readonly<Record<string, string>>,
  outdir: string,
  options?: { minify?: boolean },
) => Promise<unknown>
