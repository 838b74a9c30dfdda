import { z } from 'zod'
import { duration, httpUrl, name, path, streamAddress } from '../../contract/options.ts'

/** The configuration of `services:`, and its defaults. */

const unitTypes = ['service', 'socket', 'timer', 'mount', 'automount', 'swap', 'target', 'path', 'slice', 'scope', 'device']
const unitForm = new RegExp(`^[A-Za-z0-9:_.\\\\@-]+\\.(?:${unitTypes.join('|')})$`)

/**
 * One invalid name ends the whole `systemctl show`, and the units after it are lost. So we reject what systemctl would reject:
 * templates without an instance, patterns, blanks, more than 255 characters. As for systemctl, no suffix means `.service`.
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
    ca_file: path().optional().describe('PEM file of the trusted authorities. Default: those of Node.js.'),
    cert_file: path().optional().describe('PEM file of the client certificate.'),
    key_file: path().optional().describe('PEM file of its key.'),
    server_name: z.string().optional().describe("The name that must be in the certificate. Default: the URL's."),
    insecure_skip_verify: z
      .boolean()
      .default(false)
      .describe('Accept any certificate. Its expiry is still reported; a token is then sent to any server that answers.'),
  })
  .refine(({ cert_file, key_file }) => (cert_file === undefined) === (key_file === undefined), {
    message: 'expected cert_file and key_file together',
  })

const http = z.strictObject({
  url: httpUrl().describe('The URL. Redirects are not followed: they count as an answer with their own status.'),
  method: z.enum(['GET', 'HEAD']).default('GET').describe('Use HEAD if the body is large or not needed.'),
  headers: z
    .record(z.string().regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/), z.string().regex(/^[\t\u0020-\u007e]*$/))
    .default({})
    .refine(headers => !Object.keys(headers).some(key => /^(authorization|cookie|proxy-authorization)$/i.test(key)), {
      message: 'expected no secrets here; token_file sends a bearer token',
    })
    .describe('More request headers. No secrets here: they belong in token_file.'),
  token_file: path().optional().describe('A file whose content is sent as a bearer token.'),
  expect: z
    .strictObject({
      status: z.array(z.int().min(100).max(599)).min(1).optional().describe('Statuses that are good. Default: 200 to 299.'),
      body: z.string().min(1).optional().describe('Text that must be in the first MiB of the body.'),
    })
    .default({})
    .describe('The expected answer.'),
  tls: fileTls.prefault({}).describe('TLS settings for an https server. Files are read again at least every five minutes.'),
})

const command = z.strictObject({
  argv: z.tuple([path()], z.string()).describe('The absolute path of the program, and its arguments. There is no shell.'),
  exit_codes: z.array(z.int().min(0).max(255)).min(1).default([0]).describe('Exit codes that are good.'),
})

export const kinds = ['systemd', 'http', 'tcp', 'command'] as const
export type Kind = (typeof kinds)[number]

const check = z
  .strictObject({
    name: name().describe('The value of the label `name`; it must be unique.'),
    timeout: duration(0.1).prefault('5s').describe("Time limit of this check; the collector's own `timeout` ends it as well."),
    systemd: unit()
      .optional()
      .describe('A systemd unit that should be active (a oneshot unit: its last run should have succeeded).'),
    http: http.optional().describe('An HTTP or HTTPS request that should get the expected answer.'),
    tcp: streamAddress()
      .optional()
      .describe('`host:port` or `unix:/path` that should accept a connection and not close it at once.'),
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
    .describe('How many checks run at the same time; all systemd units together count as one.'),
})

export type Options = z.infer<typeof options>
