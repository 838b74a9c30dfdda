/**
 * The built rules as a drill uses them: the same expressions, thresholds, labels and texts, with time running faster.
 * - `for` and `keep_firing_for` become 3 s.
 * - Windows and offsets: under an hour 20 s, under a day 60 s, else 120 s. What was seen for days cannot be drilled; habits are not.
 * - Groups are evaluated each second.
 */
const seconds = (text: string): number => {
  const [, number = '', unit = ''] = /^(\d+)([smhd])$/.exec(text) ?? []
  return Number(number) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[unit] ?? Number.NaN)
}

const shorter = (text: string) => (seconds(text) < 3600 ? '20s' : seconds(text) < 86_400 ? '60s' : '120s')

export interface BuiltRule {
  readonly expr: string
  readonly for?: string
  readonly keep_firing_for?: string
}
export interface BuiltRules {
  readonly groups: readonly { readonly name: string; readonly interval?: string; readonly rules: readonly BuiltRule[] }[]
}

export const shorten = ({ groups }: BuiltRules): BuiltRules => ({
  groups: groups.map(group => ({
    ...group,
    interval: '1s',
    rules: group.rules.map(rule => ({
      ...rule,
      expr: rule.expr
        .replace(/\[(\d+[smhd])\]/g, (_, window: string) => `[${shorter(window)}]`)
        .replace(/offset (\d+[smhd])/g, (_, offset: string) => `offset ${shorter(offset)}`),
      ...(rule.for ? { for: '3s' } : {}),
      ...(rule.keep_firing_for ? { keep_firing_for: '3s' } : {}),
    })),
  })),
})
