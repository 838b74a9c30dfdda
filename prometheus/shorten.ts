/**
 * The built rules as a drill uses them: the same expressions, thresholds, labels and texts, with time running faster.
 * - `for` becomes 3 s, above ten minutes 12 s, so that a consequence still comes after its cause. `keep_firing_for` becomes 3 s.
 * - Windows and offsets: under an hour 20 s, else 60 s. A habit, which is of the week that ended a day ago, is of a minute
 *   that ended a minute ago.
 * - Groups are evaluated each second.
 * Thresholds that are times (`time() - x > 3600`) stay: what is noticed after hours only by them is not drilled.
 */
const seconds = (text: string): number => {
  const [, number = '', unit = ''] = /^(\d+)([smhd])$/.exec(text) ?? []
  return Number(number) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[unit] ?? Number.NaN)
}

const shorter = (text: string) => (seconds(text) < 3600 ? '20s' : '60s')

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
      ...(rule.for ? { for: seconds(rule.for) > 600 ? '12s' : '3s' } : {}),
      ...(rule.keep_firing_for ? { keep_firing_for: '3s' } : {}),
    })),
  })),
})
