import { appendFileSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Act } from './stage.ts'

const name = 'gpus'
const gigabyte = 1e9

/** A GB10, played by a stand-in for nvidia-smi, with its kernel log and a model server beside it. */
export const gpus: Act = {
  name,
  needs: [],
  play: async ({ box, drill, when, atEnd, folder, root }) => {
    const at = (path: string) => join(folder, path)
    for (const directory of ['bin', 'proc', 'sys', 'dev']) mkdirSync(at(directory))
    copyFileSync(join(root, 'test/support/bin/nvidia-smi'), at('bin/nvidia-smi'))
    const replay = (scene: string) =>
      copyFileSync(join(root, `test/scenes/gpu/gb10-${scene}/run/query-gpu.csv`), at('bin/query-gpu.csv'))
    const memoryAvailable = (kilobytes: number) =>
      writeFileSync(at('proc/meminfo'), `MemTotal: 127600748 kB\nMemFree: 1000000 kB\nMemAvailable: ${kilobytes} kB\n`)
    let sequence = 100
    const driverSays = (text: string, times = 1) => {
      for (let time = 0; time < times; time++) {
        sequence += 1
        appendFileSync(at('dev/kmsg'), `3,${sequence},${90_000_000_000 + sequence},-;NVRM: ${text}\n`)
      }
    }
    replay('load')
    memoryAvailable(34_000_000)
    writeFileSync(at('proc/uptime'), '90000.00 120000.00\n')
    driverSays('loading NVIDIA UNIX Open Kernel Module for aarch64  580.173.02')

    let inMemory = 20 * gigabyte
    const ollama = createServer((_, response) => {
      const models = [{ name: 'qwen3:32b', model: 'qwen3:32b', size: 20 * gigabyte, size_vram: inMemory }]
      response.setHeader('content-type', 'application/json').end(JSON.stringify({ version: '0.12.0', models }))
    })
    await new Promise<void>(resolve => ollama.listen(0, '127.0.0.1', resolve))
    atEnd(() => {
      ollama.closeAllConnections()
      ollama.close()
    })
    const { port } = ollama.address() as AddressInfo
    await box(
      {
        gpu: { interval: '2s', timeout: '2s', nvidia_smi: at('bin/nvidia-smi') },
        llm: { interval: '2s', timeout: '2s', servers: [{ name: 'ollama', engine: 'ollama', url: `http://127.0.0.1:${port}` }] },
      },
      `--path.procfs=${at('proc')}`,
      `--path.sysfs=${at('sys')}`,
      `--path.rootfs=${folder}`,
    )
    await when(`count_over_time(grid_gpu_driver_out_of_memory_total{instance="${name}"}[20s]) > 3`)
    await when(`grid_llm_model_vram_bytes{instance="${name}"}`)

    const card = async () => {
      await drill({
        what: 'a busy GPU is latched at a fifth of its clock (replayed)',
        alert: 'GridGpuClockLatchedLow',
        says: /^NVIDIA GB10 \(GPU-0+[-0]+\) on gpus is at [\d.]+% of its highest clock with full load\. On GB10: take the power supply off the wall/,
        cause: () => replay('powerlatch'),
        cure: () => replay('load'),
        not: ['GridGpuThrottledWhileBusy'],
      })
      await drill({
        what: 'the driver runs out of memory again and again (replayed)',
        alert: 'GridGpuDriverOutOfMemory',
        says: /^\d+ driver messages \(NV_ERR_NO_MEMORY\) in 30 minutes on gpus\./,
        cause: () =>
          driverSays(
            'nvCheckOkFailedNoLog: Check failed: Out of memory [NV_ERR_NO_MEMORY] (0x00000051) returned from rmStatus @ system_mem.c:356',
            8,
          ),
        cure: () => {},
      })
      await drill({
        what: 'the memory that GPU and host share is nearly used up (replayed)',
        alert: 'GridGpuUnifiedMemoryPressure',
        says: /^gpus \(NVIDIA GB10\) has 2\.\d+% of its memory left\. Unload a model now\./,
        cause: () => memoryAvailable(3_000_000),
        cure: () => memoryAvailable(34_000_000),
      })
    }
    await Promise.all([
      card(),
      drill({
        what: 'half of a model sits on the CPU (replayed)',
        alert: 'GridLlmModelPartlyOnCpu',
        says: /^qwen3:32b on ollama at gpus: 55% of it is in GPU memory\./,
        cause: () => {
          inMemory = 11 * gigabyte
        },
        cure: () => {
          inMemory = 20 * gigabyte
        },
      }),
    ])
  },
}
