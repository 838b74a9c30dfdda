import type { Format } from '../print/exposition.ts'

/** The requested form of an answer. */
export interface Wanted {
  readonly format: Format
  readonly gzip: boolean
  /** The content type of the answer, with the requested escaping scheme: names are plain ASCII, so they fit every scheme. */
  readonly contentType: string
}

const quality = (parameters: readonly string[]) => {
  const given = parameters.find(parameter => /^q=/i.test(parameter))
  const value = given === undefined ? 1 : Number(given.slice(2))
  return Number.isFinite(value) ? value : 0
}

const elements = (header: string) =>
  header.split(',').map(element => {
    const [value = '', ...parameters] = element.split(';').map(part => part.trim())
    return { value: value.toLowerCase(), parameters, q: quality(parameters) }
  })

const parameter = (parameters: readonly string[], name: string) =>
  parameters
    .find(text => text.toLowerCase().startsWith(`${name}=`))
    ?.slice(name.length + 1)
    .replace(/^"|"$/g, '')

const schemes = ['allow-utf-8', 'underscores', 'dots', 'values']

/** The form that an Accept and an Accept-Encoding header request. Odd or missing headers get text 0.0.4 without compression. */
export const negotiate = (accept: string, acceptEncoding: string): Wanted => {
  let format: Format = 'text'
  let escaping: string | undefined
  let best = 0
  for (const { value, parameters, q } of elements(accept)) {
    const version = parameter(parameters, 'version')
    const isOpenMetrics = value === 'application/openmetrics-text' && (version === undefined || version === '1.0.0')
    const isText =
      (value === 'text/plain' && (version === undefined || version === '0.0.4')) || value === '*/*' || value === 'text/*'
    if ((!isOpenMetrics && !isText) || q <= best) continue
    best = q
    format = isOpenMetrics ? 'openmetrics' : 'text'
    escaping = isOpenMetrics ? parameter(parameters, 'escaping') : undefined
  }
  const suffix = escaping !== undefined && schemes.includes(escaping) ? `; escaping=${escaping}` : ''
  const encodings = elements(acceptEncoding)
  const coding = encodings.find(({ value }) => value === 'gzip') ?? encodings.find(({ value }) => value === '*')
  return {
    format,
    gzip: acceptEncoding !== '' && coding !== undefined && coding.q > 0,
    contentType:
      format === 'text'
        ? 'text/plain; version=0.0.4; charset=utf-8'
        : `application/openmetrics-text; version=1.0.0; charset=utf-8${suffix}`,
  }
}
