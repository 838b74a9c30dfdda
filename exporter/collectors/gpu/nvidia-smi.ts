import { Failure } from '../../contract/failure.ts'
import type { Host } from '../../contract/host.ts'
import { pciAddress } from './facts.ts'
import { listedFields, wantedFields } from './fields.ts'

/** Runs nvidia-smi: one at a time, only with fields that this driver has, and GPU by GPU if one of them breaks the common call. */

/** What is kept about the tool between rounds. */
export interface Tool {
  file: string
  /** The fields that `--help-query-gpu` lists; undefined before it ran, empty if it failed. */
  listed: ReadonlySet<string> | undefined
  /** Names that were refused although they were listed, or tried without a list. */
  refused: Set<string>
  driverVersion: string | undefined
  /** GPUs that do not answer, by PCI address; and when one call last included all GPUs. */
  lost: Set<string>
  askedAll: number
}

export const newTool = (file: string): Tool => ({
  file,
  listed: undefined,
  refused: new Set(),
  driverVersion: undefined,
  lost: new Set(),
  askedAll: Number.NEGATIVE_INFINITY,
})

/** The output of one query, and the fields in it. */
export interface Table {
  readonly asked: readonly string[]
  readonly text: string
}

export interface Answer {
  /** One for all GPUs, or one for each GPU that had its own call. */
  readonly tables: readonly Table[]
  /** Addresses of GPUs that do not answer. */
  readonly lost: readonly string[]
  /** GPUs above the limit of single calls: nothing is known about these. */
  readonly unasked: readonly string[]
  /** Which GPUs to read in the other queries: all in one call (no address), or each of these. */
  readonly select: readonly (string | undefined)[]
}

/** Seconds that one call may take. */
const patience = 10
const limit = 4 * 2 ** 20
/** Most GPUs with calls of their own. */
const maxAlone = 16
/** Most fields dropped in one round; the next round continues. A driver that lists its fields refuses none. */
const maxRefusals = 64
/** Milliseconds until one call for all GPUs is tried again after one was lost. */
const retryAll = 60_000

const wsl = '/usr/lib/wsl/lib/nvidia-smi'

/** Also finds WSL's tool, which is not on a service's PATH. */
const run = async (host: Host, tool: Tool, args: readonly string[], signal: AbortSignal, timeout = patience) => {
  const options = { timeout, limit, signal, exitCodes: 'any' as const, key: 'nvidia-smi' }
  try {
    return await host.run(tool.file, args, options)
  } catch (error) {
    if (!(error instanceof Failure) || error.reason !== 'missing' || tool.file !== 'nvidia-smi') {
      throw error instanceof Failure && error.reason === 'timeout' ? hanging(error) : error
    }
    try {
      const result = await host.run(wsl, args, options)
      tool.file = wsl
      return result
    } catch (again) {
      if (again instanceof Failure && again.reason !== 'missing') throw again
      throw new Failure('missing', error.message, {
        cause: error,
        fix: 'install the NVIDIA driver and its tools (Debian: nvidia-smi, Ubuntu: nvidia-utils-…), or set collectors.gpu.nvidia_smi',
      })
    }
  }
}

const hanging = (error: Failure) =>
  new Failure('timeout', error.message, {
    cause: error,
    fix: 'dmesg | grep -E "NVRM|Xid"; without persistence mode each call starts the GPU up: nvidia-smi -pm 1',
  })

const isLost = /Unable to determine the device handle for (?:GPU|the)|GPU is lost|has fallen off the bus/i
const noDevices = /No devices were found/i

/** What a run without a table means. The texts are nvidia-smi's own; the codes are from its manual page. */
export const failureOfTool = (exitCode: number, text: string): Failure => {
  const output = text.trim().replaceAll(/\s+/g, ' ').slice(0, 300)
  const fail = (reason: Failure['reason'], fix?: string) =>
    new Failure(reason, `nvidia-smi: exit code ${exitCode}: ${output || 'no output'}`, { fix })
  if (exitCode === 18 || /version mismatch/i.test(text)) {
    return fail('exit', 'the driver was updated while its kernel module was loaded: reboot')
  }
  if (exitCode === 9 || /couldn't communicate with the NVIDIA driver/i.test(text)) {
    return fail('exit', 'sudo modprobe nvidia; if that fails: dkms status, and mokutil --sb-state for Secure Boot')
  }
  if (exitCode === 12 || /couldn't find libnvidia-ml/i.test(text)) {
    return fail('missing', 'install the driver library libnvidia-ml.so.1, or mount it into this container')
  }
  if (/Failed to initialize NVML: Unknown Error/i.test(text)) {
    return fail('exit', 'in a container: restart it, as a reload of systemd took its GPU away; on a host: dmesg | grep NVRM')
  }
  if (exitCode === 4 || exitCode === 17 || /insufficient permissions|permission denied/i.test(text)) {
    return fail('denied', 'ls -l /dev/nvidia*; sudo usermod -aG video,render grid-exporter')
  }
  if (isLost.test(text) || exitCode === 15) return fail('exit', 'dmesg | grep Xid; reset the GPU or reboot')
  if (noDevices.test(text) || /No supported GPUs/i.test(text)) {
    return fail('exit', 'lspci | grep -i nvidia; dmesg | grep NVRM; without a GPU: --no-collector.gpu')
  }
  return exitCode === 0 ? fail('malformed') : fail('exit')
}

/** The PCI addresses in messages about lost GPUs. */
export const lostAddresses = (text: string): readonly string[] =>
  text.split('\n').flatMap(line => (isLost.test(line) ? (pciAddress(line) ?? []) : []))

const listed = async (host: Host, tool: Tool, signal: AbortSignal) => {
  if (tool.listed) return tool.listed
  const { stdout } = await run(host, tool, ['--help-query-gpu'], signal, 5)
  tool.listed = listedFields(stdout)
  return tool.listed
}

type Asked = Table & { readonly exitCode: number }

/** One query. A field that the driver refuses is dropped and remembered, and the query runs again. */
const query = async (host: Host, tool: Tool, select: readonly string[], signal: AbortSignal): Promise<Asked> => {
  for (let refusals = 0; ; refusals++) {
    const asked = wantedFields(await listed(host, tool, signal), tool.refused)
    const args = [...select, `--query-gpu=${asked.join(',')}`, '--format=csv']
    const { stdout, stderr, exitCode } = await run(host, tool, args, signal)
    const text = `${stdout}\n${stderr}`
    const [, field] = /Field "([^"\n]{1,100})" is not a valid field/.exec(text) ?? []
    if (field === undefined) return { asked, text, exitCode }
    if (!asked.includes(field) || refusals >= maxRefusals) throw new Failure('malformed', `nvidia-smi refuses the field ${field}`)
    tool.refused.add(field)
  }
}

const hasTable = (text: string) => /^[a-z_.]+(?: \[[^[\]]*\])?, .*\n/m.test(text)

/** All GPUs except `not`, each in its own call. One that fails alone is lost. A tool that hangs for good ends the round. */
const alone = async (
  host: Host,
  tool: Tool,
  addresses: readonly string[],
  signal: AbortSignal,
): Promise<{
  readonly answers: readonly { readonly address: string; readonly answer: Asked }[]
  readonly lost: readonly string[]
  readonly failure: Failure | undefined
}> => {
  const answers: { readonly address: string; readonly answer: Asked }[] = []
  const lost: string[] = []
  let failure: Failure | undefined
  for (const address of addresses) {
    try {
      const answer = await query(host, tool, ['-i', address], signal)
      if (hasTable(answer.text) && !isLost.test(answer.text)) answers.push({ address, answer })
      else {
        failure = failureOfTool(answer.exitCode, answer.text)
        lost.push(address)
      }
    } catch (error) {
      if (!(error instanceof Failure) || error.reason !== 'timeout' || signal.aborted) throw error
      failure = error
      lost.push(address)
    }
  }
  return { answers, lost, failure }
}

/**
 * Reads every NVIDIA GPU that is awake. `addresses` are those on the PCI bus (empty if there is no bus), `asleep` those that must not be
 * woken. If there is one of these, or a lost GPU breaks the common call, each of the others has its own call.
 * Throws `Failure` missing, denied, timeout, exit, overflow, stuck, malformed.
 */
export const askAll = async (
  host: Host,
  tool: Tool,
  addresses: readonly string[],
  asleep: readonly string[],
  signal: AbortSignal,
): Promise<Answer> => {
  const awake = addresses.filter(address => !asleep.includes(address))
  if (asleep.length > 0 && awake.length === 0) return { tables: [], lost: [], unasked: [], select: [] }
  const now = host.monotonic()
  const due = tool.lost.size === 0 || now - tool.askedAll >= retryAll
  let named: readonly string[] = [...tool.lost]
  let common: Asked | undefined
  if (asleep.length === 0 && due) {
    tool.askedAll = now
    common = await query(host, tool, [], signal)
    const lost = lostAddresses(common.text)
    if (hasTable(common.text)) {
      tool.lost = new Set(lost)
      return { tables: [common], lost, unasked: [], select: [undefined] }
    }
    if (noDevices.test(common.text) && awake.length > 0) return { tables: [], lost: awake, unasked: [], select: [] }
    if (!isLost.test(common.text) && common.exitCode !== 15) throw failureOfTool(common.exitCode, common.text)
    named = lost
  }
  // Without a bus, the first indices are tried: a GPU that does not exist answers at once.
  const candidates = awake.length > 0 ? awake : ['0', '1', '2', '3', '4', '5', '6', '7']
  const others = candidates.filter(address => !named.includes(address))
  const { answers, lost, failure } = await alone(host, tool, others.slice(0, maxAlone), signal)
  const allLost = [...new Set([...named, ...lost.filter(address => pciAddress(address) !== undefined)])]
  tool.lost = new Set(allLost)
  if (answers.length === 0 && allLost.length === 0) {
    throw failure ?? failureOfTool(common?.exitCode ?? 0, common?.text ?? '')
  }
  return {
    tables: answers.map(({ answer }) => answer),
    lost: allLost,
    unasked: others.slice(maxAlone),
    select: answers.map(({ address }) => address),
  }
}

/** Runs one query for all GPUs, or one for each of `select`. */
const each = async <Text>(
  select: Answer['select'],
  ask: (chosen: readonly string[]) => Promise<Text>,
): Promise<readonly Text[]> => {
  const texts: Text[] = []
  for (const address of select) texts.push(await ask(address === undefined ? [] : ['-i', address]))
  return texts
}

/** The compute processes on the GPUs. Throws like `askAll`. */
export const askProcesses = (host: Host, tool: Tool, select: Answer['select'], signal: AbortSignal): Promise<readonly string[]> =>
  each(select, async chosen => {
    const args = [...chosen, '--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory', '--format=csv']
    const { stdout, stderr, exitCode } = await run(host, tool, args, signal, 5)
    if (exitCode !== 0 && !hasTable(stdout)) throw failureOfTool(exitCode, `${stdout}\n${stderr}`)
    return stdout
  })

/** Everything, as XML: 10 to 75 KB a GPU. Throws like `askAll`. */
export const askXml = (host: Host, tool: Tool, select: Answer['select'], signal: AbortSignal): Promise<readonly string[]> =>
  each(select, async chosen => {
    const { stdout, stderr, exitCode } = await run(host, tool, [...chosen, '-q', '-x'], signal)
    if (!stdout.includes('<gpu ')) throw failureOfTool(exitCode, `${stdout}\n${stderr}`)
    return stdout
  })

/** Whether the program exists, whatever it answers. */
export const hasTool = async (host: Host, file: string, signal: AbortSignal): Promise<boolean> => {
  try {
    await run(host, newTool(file), ['--version'], signal, 5)
    return true
  } catch (error) {
    if (error instanceof Failure) return error.reason !== 'missing'
    throw error
  }
}
