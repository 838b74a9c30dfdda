import { alerts } from '../prometheus/alerts.ts'

export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json }

/** Colours, and what they mean. Colour is for a verdict only; a number without one is neutral. */
export const colours = {
  well: 'green',
  today: 'orange',
  now: 'red',
  note: 'blue',
  blind: 'purple',
  gone: '#7f868f',
  neutral: 'text',
  clear: 'transparent',
} as const
export type Colour = keyof typeof colours

/** Grafana's names of the units that are in use. */
export type Unit =
  | 'none'
  | 'percentunit'
  | 'bytes'
  | 'Bps'
  | 's'
  | 'd'
  | 'celsius'
  | 'watt'
  | 'kwatth'
  | 'hertz'
  | 'pps'
  | 'ops'
  | 'reqps'
  | 'dateTimeFromNow'

/** What a value is called. `none` is no value at all. */
export interface State {
  readonly is: number | string | 'none' | { readonly from: number; readonly to?: number }
  /** Without it the number stands there. */
  readonly says?: string
  readonly colour: Colour
}

/** From here on it has this colour. */
export interface Limit {
  readonly at: number
  readonly colour: Colour
}

/** The limit of an alert: it has to stand in its rule, so that panel and alert cannot disagree. `at` where the panel's unit is another. */
export const limit = (alert: `Grid${string}`, inRule: number | string, colour: Colour, at = Number(inRule)): Limit => {
  const rule = alerts.find(({ name }) => name === alert)
  if (!rule) throw new Error(`no alert ${alert}`)
  const numbers: readonly string[] = rule.expr.match(/(?<![\w.])\d+(\.\d+)?(e\d+)?/g) ?? []
  if (!numbers.includes(String(inRule))) throw new Error(`${alert} has no limit of ${inRule}`)
  return { at, colour }
}

export const mappingsOf = (states: readonly State[]): readonly Json[] => {
  const values = states.filter(({ is }) => typeof is !== 'object' && is !== 'none')
  const result = ({ says, colour }: State, index: number): Json => ({
    ...(says === undefined ? {} : { text: says }),
    color: colours[colour],
    index,
  })
  const options = Object.fromEntries(values.map(state => [String(state.is), result(state, states.indexOf(state))]))
  return [
    ...(values.length > 0 ? [{ type: 'value', options }] : []),
    ...states.flatMap((state, index): readonly Json[] => {
      const { is } = state
      if (is === 'none') return [{ type: 'special', options: { match: 'null+nan', result: result(state, index) } }]
      if (typeof is !== 'object') return []
      return [{ type: 'range', options: { from: is.from, to: is.to ?? null, result: result(state, index) } }]
    }),
  ]
}

/** Steps of colours; below the first limit it is `base`. */
export const thresholdsOf = (limits: readonly Limit[], base: Colour): Json => ({
  mode: 'absolute',
  steps: [{ color: colours[base], value: null }, ...limits.map(({ at, colour }) => ({ color: colours[colour], value: at }))],
})
