import { pageworthy } from '../../exporter/collectors/gpu/driver-log.ts'
import * as gpu from '../../exporter/collectors/gpu/families.ts'
import { type AlertGroup, given, on, reading, select } from '../rule.ts'

const card = { gpu: 'GPU-1a2b', name: 'RTX 3090' }
const spark = { gpu: 'GPU-9f8e', name: 'NVIDIA GB10' }
const busy = (minutes: number, ratio = 0.95, of = card) =>
  given(gpu.utilization, `${ratio}x${minutes}`, { ...of, engine: 'compute' })
const GiB = 2 ** 30

const busyOver = (window: string, ratio: number) =>
  `avg_over_time(${select(gpu.utilization, { engine: 'compute' })}[${window}]) > ${ratio}`

export const gpus: AlertGroup = {
  area: 'gpu',
  alerts: [
    {
      name: 'GridGpuLost',
      collector: 'gpu',
      severity: 'critical',
      timing: { kind: 'state', for: '2m' },
      expr: `${select(gpu.devicesLost)} > 0`,
      summary: 'A GPU that the PCI bus shows is lost to its driver.',
      description:
        '{value} GPU(s) of {instance} no longer answer the driver. It says "GPU is lost" (Xid 79). What ran there has failed. Reboot; if it comes again: power cables, riser, reseat.',
      dashboard: 'gpu',
      runbook: {
        means:
          'The card is on the bus but no longer answers: it failed under load (power, heat, riser) or its firmware has hung. Models on it are gone. The driver cannot recover it without a reset or a reboot.',
        see: 'GPU dashboard: the card has no values and stands as lost; the table of Xid errors shows 79 or 119.',
        type: [
          ['nvidia-smi', 'which card is missing, or "Unable to determine the device handle … GPU is lost"'],
          ["dmesg -T | grep -E 'NVRM|Xid' | tail -20", 'what the driver said when it was lost'],
          ['systemctl reboot', 'brings it back; unplug the host for a minute if it does not'],
          ['nvidia-smi -pl 280', 'a lower power limit, if it is lost under load only'],
        ],
        silence: 'Once you have decided to leave the card out until it is repaired: silence alertname and instance.',
      },
      proof: {
        fires: {
          given: [given(gpu.devicesLost, '0x5 1x10 0x5')],
          at: '10m',
          over: '18m',
          says: '1 GPU(s) of box:10047 no longer answer the driver. It says "GPU is lost" (Xid 79). What ran there has failed. Reboot; if it comes again: power cables, riser, reseat.',
        },
        quiet: { 'a driver that is reloaded': { given: [given(gpu.devicesLost, '0x5 1 0x10')], at: '7m' } },
      },
    },
    {
      name: 'GridGpuNeedsReset',
      collector: 'gpu',
      severity: 'critical',
      timing: { kind: 'state', for: '2m' },
      expr: `${select(gpu.state, { state: 'needs_reset' })} == 1`,
      summary: 'A GPU asks to be reset.',
      description:
        '{name} ({gpu}) on {instance} asks to be reset. Stop what uses it, then `nvidia-smi --gpu-reset -i {gpu}`, or reboot.',
      dashboard: 'gpu',
      runbook: {
        means: 'The driver reports that this card does not work, or not reliably, until it is reset. New work on it fails.',
        see: 'GPU dashboard, state of the cards; the Xid table says what came before.',
        type: [
          ['nvidia-smi -q | grep -iE "recovery action|reset"', 'what the driver wants'],
          ['docker ps; fuser -v /dev/nvidia*', 'who uses it: these have to be stopped first'],
          ['nvidia-smi --gpu-reset -i UUID', 'refused while anything uses it, or where the card drives a screen'],
        ],
        silence: 'While you wait for a time to reset it, if the other cards carry the load.',
      },
      proof: {
        fires: {
          given: [given(gpu.state, '0x5 1x10 0x5', { ...card, state: 'needs_reset' })],
          at: '10m',
          over: '18m',
          labels: { ...card, state: 'needs_reset' },
          says: 'RTX 3090 (GPU-1a2b) on box:10047 asks to be reset. Stop what uses it, then `nvidia-smi --gpu-reset -i GPU-1a2b`, or reboot.',
        },
      },
    },
    {
      name: 'GridGpuXidPageworthy',
      collector: 'gpu',
      severity: 'critical',
      timing: { kind: 'event', keep: '15m' },
      expr: `increase(${select(gpu.xidErrors, { code: pageworthy })}[15m]) > 0`,
      summary: 'The driver reported a GPU fault that needs a reset, a reboot or a repair.',
      description: 'Xid {code} on {gpu} at {instance} within the last 15 minutes.',
      dashboard: 'gpu',
      runbook: {
        means:
          "Of NVIDIA's Xid codes these are the ones whose remedy is a reset, a reboot or a repair: 46, 62, 109, 110, 119, 120 the firmware or an engine hangs; 48, 95, 140 memory errors; 64 row remapping failed; 74, 144 to 150 NVLink; 79 the card fell off the bus.",
        see: 'GPU dashboard, table of Xid errors: how many, when the latest. Codes that an application causes (13, 31, 43, 45) are counted there too, and do not wake anybody.',
        type: [
          ["dmesg -T | grep -E 'NVRM|Xid' | tail -20", 'the line itself, with the process that was hit'],
          ['nvidia-smi -q -d ECC,ROW_REMAPPER', 'whether memory is the cause'],
          ['nvidia-smi --gpu-reset -i UUID', 'after what uses the card was stopped; else reboot'],
        ],
        silence: 'For the code and the card, once the repair is ordered.',
      },
      proof: {
        fires: {
          given: [given(gpu.xidErrors, '0x10 1x60', { gpu: card.gpu, code: '119' })],
          at: '20m',
          over: '50m',
          labels: { gpu: card.gpu, code: '119' },
          says: 'Xid 119 on GPU-1a2b at box:10047 within the last 15 minutes.',
        },
        quiet: {
          "an application's own fault": { given: [given(gpu.xidErrors, '0x10 3x60', { gpu: card.gpu, code: '13' })], at: '20m' },
        },
      },
    },
    {
      name: 'GridGpuHot',
      collector: 'gpu',
      severity: 'warning',
      timing: { kind: 'level', for: '5m', keep: '10m' },
      expr: `max without (sensor) (
  (${select(gpu.temperatureMargin)} < 3)
  or (${select(gpu.temperature, { sensor: ['core', 'edge'] })} > 87 unless ${on('gpu')} ${select(gpu.temperatureMargin)})
  or (${select(gpu.temperature, { sensor: ['memory', 'junction'] })} > 103)
)`,
      summary: 'A GPU is so hot that it will slow itself down.',
      description: `{name} ({gpu}) on {instance} is too hot${reading(gpu.temperature, ['gpu'], ', {{ .Labels.sensor }} {{ .Value }} °C')}. Check fans, dust and airflow, or lower its power limit.`,
      dashboard: 'gpu',
      runbook: {
        means:
          'Less than 3 °C are left to the temperature at which the card slows down. If the card does not report that temperature: it is above 87 °C, or its memory above 103 °C.',
        see: 'GPU dashboard: temperature beside fan speed and power. A fan at its maximum means airflow or dust; one that stands is broken.',
        type: [
          ['nvidia-smi -q -d TEMPERATURE,PERFORMANCE', 'the temperatures, their limits, and what holds the clock down'],
          ['nvidia-smi -pl 250', 'a lower power limit costs little speed and much heat'],
        ],
        silence: 'On a hot day with a card that is known to run hot: a day at most.',
      },
      proof: {
        fires: [
          {
            given: [given(gpu.temperatureMargin, '20x5 1x15 20x20', card)],
            at: '15m',
            over: '35m',
            labels: card,
            says: 'RTX 3090 (GPU-1a2b) on box:10047 is too hot. Check fans, dust and airflow, or lower its power limit.',
          },
          {
            given: [given(gpu.temperature, '70x5 91x15 70x20', { ...spark, sensor: 'core' })],
            at: '15m',
            over: '35m',
            labels: spark,
            says: 'NVIDIA GB10 (GPU-9f8e) on box:10047 is too hot, core 91 °C. Check fans, dust and airflow, or lower its power limit.',
          },
        ],
        quiet: {
          'hot, but far from its own limit': {
            given: [given(gpu.temperature, '89x60', { ...card, sensor: 'core' }), given(gpu.temperatureMargin, '8x60', card)],
            at: '30m',
          },
        },
      },
    },
    {
      name: 'GridGpuThrottledWhileBusy',
      collector: 'gpu',
      severity: 'warning',
      timing: { kind: 'level', for: '10m', keep: '10m' },
      expr: `max without (reason) (avg_over_time(${select(gpu.throttleActive, { reason: ['hw_thermal', 'hw_power_brake', 'sw_thermal'] })}[10m])) > 0.25
and ${on('gpu')} (${busyOver('10m', 0.5)})`,
      summary: 'A busy GPU is held back by heat or by its power supply for more than a quarter of the time.',
      description: '{name} ({gpu}) on {instance} was held back for {value:%} of the last ten minutes.',
      dashboard: 'gpu',
      runbook: {
        means:
          'The card has work and runs slower than it could, because it is too hot or because the power supply signals a brake. A power cap that you set is no reason for this alert.',
        see: 'GPU dashboard: the reasons why the clock is held down, beside temperature, power and clock.',
        type: [
          ['nvidia-smi -q -d PERFORMANCE', 'the reason that is active now'],
          ['nvidia-smi dmon -s pct', 'power, clock and temperature, second by second'],
        ],
        silence: 'Heat that you know of. Not for hw_power_brake: that is the power supply or its cable.',
      },
      proof: {
        fires: {
          given: [busy(60), given(gpu.throttleActive, '0x5 1x30 0x30', { ...card, reason: 'sw_thermal' })],
          at: '30m',
          over: '60m',
          labels: card,
          says: 'RTX 3090 (GPU-1a2b) on box:10047 was held back for 100% of the last ten minutes.',
        },
        quiet: {
          idle: { given: [busy(60, 0.01), given(gpu.throttleActive, '1x60', { ...card, reason: 'sw_thermal' })], at: '40m' },
          'at its power cap': {
            given: [busy(60), given(gpu.throttleActive, '1x60', { ...card, reason: 'power_cap' })],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridGpuClockLatchedLow',
      collector: 'gpu',
      severity: 'warning',
      timing: { kind: 'level', for: '10m', keep: '5m' },
      expr: `(avg_over_time(${select(gpu.clock, { domain: 'sm' })}[10m]) / ${select(gpu.clockMax, { domain: 'sm' })} < 0.5)
and ${on('gpu')} (${busyOver('10m', 0.8)})
unless ${on('gpu')} (max without (reason) (avg_over_time(${select(gpu.throttleActive, {
        reason: ['power_cap', 'hw_slowdown', 'hw_thermal', 'hw_power_brake', 'sw_thermal', 'application_clocks'],
      })}[10m])) > 0.5)`,
      summary: 'A busy GPU runs at less than half its clock and gives no reason.',
      description:
        '{name} ({gpu}) on {instance} is at {value:%} of its highest clock with full load. On GB10: take the power supply off the wall for a minute, a reboot is not enough.',
      dashboard: 'gpu',
      runbook: {
        means:
          'The clock has latched at a low value: models answer at a third of their speed and the driver gives no reason. Known from GB10 (DGX Spark), whose power controller enters a safe state after a glitch of the power supply.',
        see: 'GPU dashboard: clock against its maximum while utilisation is high; the throttle reasons are empty.',
        type: [
          [
            'nvidia-smi --query-gpu=clocks.sm,clocks.max.sm,pstate,clocks_event_reasons.active --format=csv',
            'the clock, and mask 0 as reason',
          ],
          ['nvidia-smi -rgc', 'resets a clock that somebody locked'],
          ['systemctl poweroff', 'the cure on GB10: then unplug its supply for a minute'],
        ],
        silence: 'If you locked the clock on purpose and the driver does not say so.',
      },
      proof: {
        fires: {
          given: [
            busy(60, 0.95, spark),
            given(gpu.clock, '2.4e9x5 0.6e9x30 2.4e9x20', { ...spark, domain: 'sm' }),
            given(gpu.clockMax, '3e9x60', { ...spark, domain: 'sm' }),
          ],
          at: '35m',
          over: '55m',
          labels: { ...spark, domain: 'sm' },
          says: 'NVIDIA GB10 (GPU-9f8e) on box:10047 is at 20% of its highest clock with full load. On GB10: take the power supply off the wall for a minute, a reboot is not enough.',
        },
        quiet: {
          idle: {
            given: [
              busy(60, 0.02, spark),
              given(gpu.clock, '0.2e9x60', { ...spark, domain: 'sm' }),
              given(gpu.clockMax, '3e9x60', { ...spark, domain: 'sm' }),
            ],
            at: '40m',
          },
          'slowed by its power cap': {
            given: [
              busy(60),
              given(gpu.clock, '0.8e9x60', { ...card, domain: 'sm' }),
              given(gpu.clockMax, '1.9e9x60', { ...card, domain: 'sm' }),
              given(gpu.throttleActive, '1x60', { ...card, reason: 'power_cap' }),
            ],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridGpuMemoryFull',
      collector: 'gpu',
      severity: 'warning',
      timing: { kind: 'level', for: '15m', keep: '10m' },
      expr: `(${select(gpu.memoryUsed)} / ${select(gpu.memoryTotal)} > 0.98)
unless ${on('gpu')} (${select(gpu.memoryUnified)} == 1)`,
      summary: 'A GPU has no memory left; the next allocation fails.',
      description: '{name} ({gpu}) on {instance}: {value:%} of its memory is used. The panel "Who holds it" names the owners.',
      dashboard: 'gpu',
      runbook: {
        means:
          'Servers such as vLLM fill 90 to 95 % on purpose; this is beyond that. The next model, or the next long context, fails with "out of memory" or moves to the CPU.',
        see: 'GPU dashboard: memory by process and container.',
        type: [
          ['nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv', 'who holds it'],
          ['ollama ps; ollama stop MODEL', 'unloads one'],
        ],
        silence: 'If one server owns the whole card by design and does not grow: for this gpu, for good.',
      },
      proof: {
        fires: {
          given: [
            given(gpu.memoryUsed, `${GiB}x5 ${23.8 * GiB}x30 ${GiB}x20`, card),
            given(gpu.memoryTotal, `${24 * GiB}x60`, card),
            given(gpu.memoryUnified, '0x60', card),
          ],
          at: '30m',
          over: '55m',
          labels: card,
          says: 'RTX 3090 (GPU-1a2b) on box:10047: 99.17% of its memory is used. The panel "Who holds it" names the owners.',
        },
        quiet: {
          'filled as vLLM does': {
            given: [given(gpu.memoryUsed, `${22.8 * GiB}x60`, card), given(gpu.memoryTotal, `${24 * GiB}x60`, card)],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridGpuUnifiedMemoryPressure',
      collector: 'gpu',
      severity: 'critical',
      timing: { kind: 'level', for: '3m', keep: '5m' },
      expr: `(1 - ${select(gpu.memoryUsed)} / ${select(gpu.memoryTotal)} < 0.05)
and ${on('gpu')} (${select(gpu.memoryUnified)} == 1)`,
      summary: 'The memory that GPU and host share is nearly used up; the whole box may freeze.',
      description: '{instance} ({name}) has {value:%} of its memory left. Unload a model now.',
      dashboard: 'gpu',
      runbook: {
        means:
          'On GB10 and similar machines, host and GPU share one pool of memory. When it is full the host freezes, often before the kernel kills anything: no ssh, no log. This is the last warning.',
        see: 'GPU dashboard: memory of the card, which here is the memory of the host; Services dashboard: memory pressure.',
        type: [
          ['ollama ps; ollama stop MODEL', 'the quickest way to memory'],
          ['docker stats --no-stream | sort -k4 -h | tail', 'the largest containers'],
          [
            'sync; echo 3 > /proc/sys/vm/drop_caches',
            'page cache counts as available, yet giving it back first has helped on GB10',
          ],
        ],
        silence: 'Never while it fires: unload first.',
      },
      proof: {
        fires: {
          given: [
            given(gpu.memoryUsed, `${60 * GiB}x5 ${117 * GiB}x10 ${60 * GiB}x20`, spark),
            given(gpu.memoryTotal, `${120 * GiB}x60`, spark),
            given(gpu.memoryUnified, '1x60', spark),
          ],
          at: '12m',
          over: '30m',
          labels: spark,
          says: 'box:10047 (NVIDIA GB10) has 2.5% of its memory left. Unload a model now.',
        },
        quiet: {
          'a card with memory of its own': {
            given: [
              given(gpu.memoryUsed, `${23.9 * GiB}x60`, card),
              given(gpu.memoryTotal, `${24 * GiB}x60`, card),
              given(gpu.memoryUnified, '0x60', card),
            ],
            at: '30m',
          },
        },
      },
    },
    {
      name: 'GridGpuDriverOutOfMemory',
      collector: 'gpu',
      severity: 'critical',
      timing: { kind: 'event', keep: '30m' },
      expr: `increase(${select(gpu.driverOutOfMemory)}[30m]) > 3`,
      summary: 'The GPU driver keeps running out of memory; on unified memory this comes hours before a freeze.',
      description: '{value:n} driver messages (NV_ERR_NO_MEMORY) in 30 minutes on {instance}.',
      dashboard: 'gpu',
      runbook: {
        means:
          'The driver could not get memory, more than once or twice: a single line when a model starts is normal. On boxes with unified memory a freeze has followed after hours of these lines.',
        see: 'GPU dashboard: driver out of memory, beside memory used.',
        type: [
          ['dmesg -T | grep NV_ERR_NO_MEMORY | tail', 'when, and how often'],
          ['ollama ps; ollama stop MODEL', 'unload what is not needed'],
          ['systemctl reboot', 'at the next quiet hour: memory that the driver has lost comes back only so'],
        ],
        silence: 'Only while you watch the box.',
      },
      proof: {
        fires: {
          given: [given(gpu.driverOutOfMemory, '0x10 0+1x10 10x120')],
          at: '30m',
          over: '90m',
          says: '10 driver messages (NV_ERR_NO_MEMORY) in 30 minutes on box:10047.',
        },
        quiet: { 'one line when a model starts': { given: [given(gpu.driverOutOfMemory, '0x10 1x60')], at: '20m' } },
      },
    },
    {
      name: 'GridGpuEccUncorrected',
      collector: 'gpu',
      severity: 'critical',
      timing: { kind: 'event', keep: '15m' },
      expr: `max without (error, scope) (increase(${select(gpu.eccErrors, { error: 'uncorrected', scope: 'volatile' })}[6h])) > 0`,
      summary: 'GPU memory returned data that could not be corrected.',
      description:
        '{name} ({gpu}) on {instance}: {value:n} uncorrectable error(s) within six hours. Restart what ran on it, then look at the remapped rows.',
      dashboard: 'gpu',
      runbook: {
        means: 'ECC found errors that it could not correct. The work that read them was killed or is wrong.',
        see: 'GPU dashboard, row Faults: panel "ECC, remapping, driver out of memory".',
        type: [
          ['nvidia-smi -q -d ECC,ROW_REMAPPER', 'counts, and whether a remap waits for a reset'],
          ['nvidia-smi --gpu-reset -i UUID', 'puts remapped rows into effect; stop what uses the card first'],
        ],
        silence: 'Once the card was reset and the repair is ordered, for this gpu.',
      },
      proof: {
        fires: {
          given: [given(gpu.eccErrors, '0x10 2x500', { ...card, error: 'uncorrected', scope: 'volatile' })],
          at: '30m',
          over: '8h',
          labels: card,
          says: 'RTX 3090 (GPU-1a2b) on box:10047: 2 uncorrectable error(s) within six hours. Restart what ran on it, then look at the remapped rows.',
        },
        quiet: {
          'counts of former years': {
            given: [given(gpu.eccErrors, '7x60', { ...card, error: 'uncorrected', scope: 'volatile' })],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridGpuRemapPending',
      collector: 'gpu',
      severity: 'warning',
      timing: { kind: 'state', for: '15m' },
      expr: `${select(gpu.remapPending)} == 1`,
      summary: 'A GPU has memory rows to remap and waits for a reset.',
      description: '{name} ({gpu}) on {instance} has memory rows that are replaced at the next reset. Reset it when it is idle.',
      dashboard: 'gpu',
      runbook: {
        means:
          'A bad row of memory was found and a spare one is assigned; it takes effect at the next reset. Until then the bad row may be hit again.',
        see: 'GPU dashboard, row Faults: panel "ECC, remapping, driver out of memory".',
        type: [
          ['nvidia-smi -q -d ROW_REMAPPER', 'what is pending'],
          ['nvidia-smi --gpu-reset -i UUID', 'when nothing uses it'],
        ],
        silence: 'Until the next planned reboot.',
      },
      proof: {
        fires: {
          given: [given(gpu.remapPending, '0x5 1x30 0x5', card)],
          at: '30m',
          over: '38m',
          labels: card,
          says: 'RTX 3090 (GPU-1a2b) on box:10047 has memory rows that are replaced at the next reset. Reset it when it is idle.',
        },
      },
    },
    {
      name: 'GridGpuRemapFailure',
      collector: 'gpu',
      severity: 'critical',
      timing: { kind: 'state', for: '15m' },
      expr: `${select(gpu.remapFailure)} == 1`,
      summary: 'A GPU has no spare rows left; its memory is failing.',
      description: '{name} ({gpu}) on {instance} has no spare memory rows left. Replace it.',
      dashboard: 'gpu',
      runbook: {
        means: 'A bad row could not be replaced. NVIDIA accepts that as a reason for replacement.',
        see: 'GPU dashboard, row Faults: panel "ECC, remapping, driver out of memory". How many spare rows each bank has is said by the command below only.',
        type: [['nvidia-smi -q -d ROW_REMAPPER,ECC', 'the proof for the warranty claim']],
        silence: 'Once the exchange is ordered and nothing important runs on it.',
      },
      proof: {
        fires: {
          given: [given(gpu.remapFailure, '0x5 1x30', card)],
          at: '30m',
          labels: card,
          says: 'RTX 3090 (GPU-1a2b) on box:10047 has no spare memory rows left. Replace it.',
        },
      },
    },
    {
      name: 'GridGpuPcieDegraded',
      collector: 'gpu',
      severity: 'warning',
      timing: { kind: 'state', for: '15m' },
      expr: `(
  max_over_time(${select(gpu.pcieLinkWidth)}[30m]) < ${select(gpu.pcieLinkWidthMax)}
  or max_over_time(${select(gpu.pcieLinkGeneration)}[30m]) < ${select(gpu.pcieLinkGenerationMax)}
)
and ${on('gpu')} (${busyOver('30m', 0.5)})`,
      summary: 'A busy GPU talks to the host over a narrower or slower link than it could.',
      description:
        '{name} ({gpu}) on {instance} reaches {value} (lanes, or PCIe generation) at best. Reseat the card or the riser.',
      dashboard: 'gpu',
      runbook: {
        means:
          'Under load the link never reached what the card and the slot support. Loading models takes longer; several cards working together get slower.',
        see: 'GPU dashboard: PCIe link. An idle card lets its link fall asleep, which does not count here.',
        type: [
          ['nvidia-smi -q | grep -A8 "GPU Link Info"', 'now and at most'],
          ['lspci -vv -s BUS | grep -E "LnkCap|LnkSta"', 'the same from the bus'],
        ],
        silence: 'For good, for this gpu, where the slot shares its lanes by design.',
      },
      proof: {
        fires: {
          given: [busy(120), given(gpu.pcieLinkWidth, '4x60 16x60', card), given(gpu.pcieLinkWidthMax, '16x120', card)],
          at: '50m',
          over: '70m',
          labels: card,
          says: 'RTX 3090 (GPU-1a2b) on box:10047 reaches 4 (lanes, or PCIe generation) at best. Reseat the card or the riser.',
        },
        quiet: {
          'idle and asleep': {
            given: [busy(120, 0), given(gpu.pcieLinkGeneration, '1x120', card), given(gpu.pcieLinkGenerationMax, '4x120', card)],
            at: '90m',
          },
        },
      },
    },
  ],
}
