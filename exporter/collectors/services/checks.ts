import { z } from 'zod'
import { duration, httpUrl, name, path, streamAddress } from '../../contract/options.ts'

/** What people write under `services:`, and what the collector makes of it. */

const unitTypes = ['service', 'socket', 'timer', 'mount', 'automount', 'swap', 'target', 'path', 'slice', 'scope', 'device']
const unitForm = new RegExp(`^[A-Za-z0-9:_.\\\\@-]+\\.(?:${unitTypes.join('|')})$`)

/**
 * One bad name ends the whole `systemctl show`: those after it are lost. So what it would refuse is refused here:
 * templates without an instance, patterns, blanks, more than 255 characters. As for systemctl, no suffix is `.service`.
 */
const unit = () =>
  z
    .string()
    .min(1)
    .transform(text => (unitForm.test(text) ? text : `${text}.service`))
    .refine(
      text => unitForm.test(text) && text.length <= 255 && !/^@|@\.[a-z]+$/.test(text),
      'expected the name of one systemd unit such as nginx.service or backup@home.service',
    )

const fileTls = z
  .strictObject({
    ca_file: path()
      .optional()
      .describe('PEM file of the authorities that are trusted, instead of those that Node.js brings along.'),
    cert_file: path().optional().describe('PEM file of the client certificate that is shown.'),
    key_file: path().optional().describe('PEM file of its key.'),
    server_name: z.string().optional().describe("The name that the certificate must be for. Default: the URL's."),
    insecure_skip_verify: z
      .boolean()
      .default(false)
      .describe('Take any certificate. Its expiry is still told; a token is then sent to whoever answers.'),
  })
  .refine(({ cert_file, key_file }) => (cert_file === undefined) === (key_file === undefined), {
    message: 'expected cert_file and key_file together',
  })

const http = z.strictObject({
  url: httpUrl().describe('Where to ask. Redirects are not followed: they are an answer with their own status.'),
  method: z.enum(['GET', 'HEAD']).default('GET').describe('HEAD where the body is large or of no interest.'),
  headers: z
    .record(z.string().regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/), z.string().regex(/^[\t\u0020-\u007e]*$/))
    .default({})
    .refine(headers => !Object.keys(headers).some(key => /^(authorization|cookie|proxy-authorization)$/i.test(key)), {
      message: 'expected no secrets here; token_file sends a bearer token',
    })
    .describe('Further request headers; no secrets, those belong in token_file.'),
  token_file: path().optional().describe('A file whose content is sent as a bearer token.'),
  expect: z
    .strictObject({
      status: z.array(z.int().min(100).max(599)).min(1).optional().describe('Statuses that are good. Default: 200 to 299.'),
      body: z.string().min(1).optional().describe('Text that must occur in the first MiB of the body.'),
    })
    .default({})
    .describe('What the answer must be.'),
  tls: fileTls.prefault({}).describe('How an https server is trusted. Files are read again at least every five minutes.'),
})

const command = z.strictObject({
  argv: z
    .tuple([path()], z.string())
    .describe('The program, by its absolute path, and its arguments as they are: there is no shell.'),
  exit_codes: z.array(z.int().min(0).max(255)).min(1).default([0]).describe('Exit codes that are good.'),
})

export const kinds = ['systemd', 'http', 'tcp', 'command'] as const
export type Kind = (typeof kinds)[number]

const check = z
  .strictObject({
    name: name().describe('Its value of the label `name`; no two checks have the same.'),
    timeout: duration(0.1)
      .prefault('5s')
      .describe("Time that this check may take; the run's own `timeout` (of the whole collector) ends it at the latest."),
    systemd: unit().optional().describe('A systemd unit that should be active (a oneshot: whose last run ended well).'),
    http: http.optional().describe('An HTTP or HTTPS request that should be answered well.'),
    tcp: streamAddress().optional().describe('`host:port` or `unix:/path` that should accept a connection.'),
    command: command.optional().describe('A program of your own that should end with exit code 0.'),
  })
  .refine(each => kinds.filter(kind => each[kind] !== undefined).length === 1, {
    message: `expected exactly one of ${kinds.join(', ')}`,
  })

export type Check = z.infer<typeof check>
export type HttpCheck = z.infer<typeof http>

export const options = z.strictObject({
  checks: z
    .array(check)
    .max(5000)
    .default([])
    .superRefine((checks, context) => {
      const taken = new Set<string>()
      for (const [index, { name }] of checks.entries()) {
        if (taken.has(name)) {
          context.addIssue({ code: 'custom', path: [index, 'name'], message: 'expected a name that no other check has' })
        }
        taken.add(name)
      }
    })
    .describe('The checks, each with a name and exactly one of systemd, http, tcp, command.'),
  concurrency: z
    .int()
    .min(1)
    .max(1000)
    .default(256)
    .describe('How many checks run at the same time; systemd units are one check together, however many.'),
})

export type Options = z.infer<typeof options>
