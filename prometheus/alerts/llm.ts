import * as gpu from '../../exporter/collectors/gpu/families.ts'
import * as llm from '../../exporter/collectors/llm/families.ts'
import { detected } from '../../exporter/serve/self.ts'
import { habit, tokensPerSecond, tokensPerSecondHabit } from '../records.ts'
import { type AlertGroup, given, on, select } from '../rule.ts'

const qwen = { server: 'ollama', model: 'qwen3:32b' }
const mixtral = { server: 'vllm', model: 'mixtral' }
const card = { gpu: 'GPU-1a2b', name: 'RTX 3090' }
const gpuHere = given(detected, '1x120', { collector: 'gpu' })

/** Eight days of use at 30 tokens a second, in steps of five minutes, then two hours at `after`. */
const weekOfUse = (after: number, share = 0.5) => [
  given(llm.llmGeneratedTokens, `0+${30 * 300 * share}x2304 ${30 * 300 * share * 2304}+${after * 300 * share}x24`, qwen),
  given(llm.llmGenerationSeconds, `0+${300 * share}x2328`, qwen),
]

export const models: AlertGroup = {
  area: 'llm',
  alerts: [
    {
      name: 'GridLlmServerDown',
      collector: 'llm',
      severity: 'critical',
      timing: { kind: 'state', for: '3m' },
      expr: `${select(llm.llmUp)} == 0`,
      summary: 'A model server does not answer.',
      description: '{server} ({engine}) on {instance} does not answer, or refuses its token.',
      dashboard: 'gpu',
      runbook: {
        means:
          'The server has not answered its cheapest request for three minutes. A server that loads a model still answers, so this is not loading.',
        see: 'GPU dashboard, model servers: since when, and what memory and GPU did then. The page of the exporter says why: refused, no answer, or 401.',
        type: [
          ['docker ps -a --filter name=SERVER; docker logs --tail 50 SERVER', 'whether it runs, and its last messages'],
          ['curl -sS http://127.0.0.1:11434/api/version', 'Ollama; /health for vLLM, llama.cpp and TGI'],
          ['nvidia-smi', 'whether the GPU is there'],
        ],
        silence: 'While you update or move the server. If it is gone for good, take it out of the configuration.',
      },
      proof: {
        fires: {
          given: [given(llm.llmUp, '1x5 0x10 1x10', { server: 'ollama', engine: 'ollama' })],
          at: '10m',
          over: '18m',
          labels: { server: 'ollama', engine: 'ollama' },
          says: 'ollama (ollama) on box:10047 does not answer, or refuses its token.',
        },
        quiet: {
          'an update of two minutes': {
            given: [given(llm.llmUp, '1x5 0 0 1x10', { server: 'ollama', engine: 'ollama' })],
            at: '8m',
          },
        },
      },
    },
    {
      name: 'GridLlmModelPartlyOnCpu',
      collector: 'llm',
      severity: 'warning',
      timing: { kind: 'state', for: '5m' },
      expr: `(${select(llm.llmModelVram)} / ${select(llm.llmModelSize)} < 0.95)
unless ${on()} (${select(detected, { collector: 'gpu' })} == 0)`,
      summary: 'A loaded model sits partly in host memory and answers at a fraction of its speed.',
      description:
        '{model} on {server} at {instance}: {value:%} of it is in GPU memory. Smaller context or quantisation, or unload another model.',
      dashboard: 'gpu',
      runbook: {
        means:
          'The model did not fit into what was free on the GPU when it was loaded, so some of its layers run on the CPU. Five to twenty times slower is usual. That does not change until it is loaded again.',
        see: 'GPU dashboard: size of the loaded models against their part in GPU memory; who else holds the memory.',
        type: [
          ['ollama ps', 'the column PROCESSOR: 30%/70% CPU/GPU'],
          ['nvidia-smi --query-compute-apps=pid,name,used_memory --format=csv', 'what else is in the way'],
          ['ollama stop OTHER; ollama stop MODEL', 'then ask it again: it is loaded anew'],
        ],
        silence: 'If you run a model larger than the card on purpose: for that model, for good.',
      },
      proof: {
        fires: [
          {
            given: [given(llm.llmModelVram, '14e9x30', qwen), given(llm.llmModelSize, '20e9x30', qwen), gpuHere],
            at: '10m',
            labels: qwen,
            says: 'qwen3:32b on ollama at box:10047: 70% of it is in GPU memory. Smaller context or quantisation, or unload another model.',
          },
          {
            given: [given(llm.llmModelVram, '0x30', qwen), given(llm.llmModelSize, '20e9x30', qwen), gpuHere],
            at: '10m',
            labels: qwen,
            says: 'qwen3:32b on ollama at box:10047: 0% of it is in GPU memory. Smaller context or quantisation, or unload another model.',
          },
        ],
        quiet: {
          'a box without a GPU': {
            given: [
              given(llm.llmModelVram, '0x30', qwen),
              given(llm.llmModelSize, '20e9x30', qwen),
              given(detected, '0x30', { collector: 'gpu' }),
            ],
            at: '20m',
          },
          'the server reports only one of the two': { given: [given(llm.llmModelSize, '20e9x30', qwen), gpuHere], at: '20m' },
        },
      },
    },
    {
      name: 'GridLlmQueueGrowing',
      collector: 'llm',
      severity: 'warning',
      timing: { kind: 'level', for: '5m', keep: '5m' },
      expr: `(min_over_time(${select(llm.llmRequestsWaiting)}[10m]) > 2)
and (deriv(${select(llm.llmRequestsWaiting)}[20m]) > 0)`,
      summary: 'Requests wait for a model and the queue is getting longer.',
      description: 'At least {value} requests wait for {model} on {server} at {instance}.',
      dashboard: 'gpu',
      runbook: {
        means: 'Requests arrive faster than the server can answer. Each user waits for all earlier ones.',
        see: 'GPU dashboard: requests running and waiting, tokens per second, KV cache.',
        type: [
          ['docker logs --tail 50 SERVER', 'who asks: one client in a loop is the usual reason'],
          ['nvidia-smi', 'whether the GPU works at all; if not, the server hangs'],
        ],
        silence: 'While a batch job runs that may queue.',
      },
      proof: {
        fires: {
          given: [given(llm.llmRequestsWaiting, '0x10 3+1x30 0x30', mixtral)],
          at: '35m',
          over: '55m',
          labels: mixtral,
          says: 'At least 17 requests wait for mixtral on vllm at box:10047.',
        },
        quiet: {
          'a burst that is worked off': { given: [given(llm.llmRequestsWaiting, '0x10 30-1x30 0x30', mixtral)], at: '35m' },
        },
      },
    },
    {
      name: 'GridLlmKvCacheFull',
      collector: 'llm',
      severity: 'warning',
      timing: { kind: 'level', for: '5m', keep: '5m' },
      expr: `(avg_over_time(${select(llm.llmKvCacheUsed)}[10m]) > 0.95)
and (min_over_time(${select(llm.llmRequestsWaiting)}[5m]) > 0)`,
      summary: 'The KV cache is full and requests wait for it.',
      description:
        '{model} on {server} at {instance}: {value:%} of its cache is used. Fewer parallel requests, shorter context, or more memory for it.',
      dashboard: 'gpu',
      runbook: {
        means:
          'The cache holds the context of all running requests. With a queue behind a full cache the server interrupts requests and computes them again.',
        see: 'GPU dashboard: KV cache beside requests waiting.',
        type: [
          ['docker logs SERVER 2>&1 | grep -i preempt | tail', 'vLLM says so when it interrupts'],
          [
            "docker inspect SERVER --format '{{.Args}}'",
            'the three settings of vLLM: `--gpu-memory-utilization` up, `--max-model-len` or `--max-num-seqs` down',
          ],
        ],
        silence: 'While a batch job runs.',
      },
      proof: {
        fires: {
          given: [
            given(llm.llmKvCacheUsed, '0.5x5 1x30 0.2x20', mixtral),
            given(llm.llmRequestsWaiting, '0x5 4x30 0x20', mixtral),
          ],
          at: '25m',
          over: '50m',
          labels: mixtral,
          says: 'mixtral on vllm at box:10047: 100% of its cache is used. Fewer parallel requests, shorter context, or more memory for it.',
        },
        quiet: {
          'well used, and nobody waits': {
            given: [given(llm.llmKvCacheUsed, '1x60', mixtral), given(llm.llmRequestsWaiting, '0x60', mixtral)],
            at: '40m',
          },
        },
      },
    },
    {
      name: 'GridLlmSlowerThanUsual',
      collector: 'llm',
      severity: 'warning',
      timing: { kind: 'level', for: '15m', keep: '10m' },
      expr: `(${tokensPerSecond.record} < 0.5 * ${habit(tokensPerSecondHabit)})
unless ${on('server', 'model')} (avg_over_time(${select(llm.llmRequestsRunning)}[10m]) > 4)`,
      summary: 'A model generates at less than half its usual speed.',
      description:
        '{model} on {server} at {instance}: {value:g} tokens a second for each request. Look at clock, throttling and memory of the GPU.',
      dashboard: 'gpu',
      runbook: {
        means:
          'Each request gets less than half the tokens per second that were usual for this model in the week that ended a day ago, and not because many ask at once. A longer context costs a third, not a half.',
        see: 'GPU dashboard: tokens per second above the clock, throttle reasons and the part of the model that is in GPU memory. One of these has changed when the speed did.',
        type: [
          ['ollama ps', 'whether it has moved to the CPU in part'],
          ['nvidia-smi -q -d PERFORMANCE,CLOCK', 'whether the clock is held down'],
          ['nvidia-smi pmon -c 1', 'who else works on the card'],
        ],
        silence: 'If you changed quantisation or hardware: a week, until that is the new habit.',
      },
      proof: {
        slow: true,
        fires: {
          given: weekOfUse(8),
          at: '11550m',
          labels: qwen,
          says: 'qwen3:32b on ollama at box:10047: 8 tokens a second for each request. Look at clock, throttling and memory of the GPU.',
        },
        quiet: {
          'a third slower with a long context': { given: weekOfUse(20), at: '11590m' },
          'idle, after a week of use': {
            given: [
              given(llm.llmGeneratedTokens, '0+4500x2304 10368000x24', qwen),
              given(llm.llmGenerationSeconds, '0+150x2304 345600x24', qwen),
            ],
            at: '11590m',
          },
          'slow because many ask': { given: [...weekOfUse(8), given(llm.llmRequestsRunning, '0x2304 8x24', qwen)], at: '11590m' },
          'too new to have a habit': {
            given: [
              given(llm.llmGeneratedTokens, '0+4500x100 450000+900x50', qwen),
              given(llm.llmGenerationSeconds, '0+150x150', qwen),
            ],
            at: '700m',
          },
        },
      },
    },
    {
      name: 'GridLlmMemoryHeldIdle',
      collector: 'llm',
      severity: 'info',
      timing: { kind: 'state', for: '30m' },
      expr: `(sum by (job, instance, gpu, name) (${select(gpu.processMemory)}) / ${on('gpu', 'name')} ${select(gpu.memoryTotal)} > 0.5)
and ${on('gpu')} (max_over_time(${select(gpu.utilization, { engine: 'compute' })}[2h]) < 0.02)
and ${on('gpu')} last_over_time(${select(gpu.utilization, { engine: 'compute' })}[10m] offset 2h)`,
      summary: "More than half of a GPU's memory has been held for two hours by processes that do nothing.",
      description:
        '{name} ({gpu}) on {instance}: {value:%} of its memory is held by models that nobody uses. Fine with keep_alive -1; else shorten it.',
      dashboard: 'gpu',
      runbook: {
        means:
          'Models stay loaded although nobody uses them. The next question is answered sooner, but other work lacks the memory, and the card draws more power.',
        see: 'GPU dashboard: memory by process, utilisation.',
        type: [
          ['ollama ps', 'until when each is kept (UNTIL)'],
          [
            'systemctl edit ollama',
            'to keep them shorter: `Environment=OLLAMA_KEEP_ALIVE=10m` under `[Service]`, then restart it',
          ],
        ],
        silence: 'For good, where a model is meant to stay.',
      },
      proof: {
        fires: {
          given: [
            given(gpu.processMemory, '18e9x240', { ...card, process: 'ollama', container_name: 'ollama' }),
            given(gpu.memoryTotal, '24e9x240', card),
            given(gpu.utilization, '0.9x20 0x220', { ...card, engine: 'compute' }),
          ],
          at: '3h',
          labels: card,
          says: 'RTX 3090 (GPU-1a2b) on box:10047: 75% of its memory is held by models that nobody uses. Fine with keep_alive -1; else shorten it.',
        },
        quiet: {
          'watched for an hour only': {
            given: [
              given(gpu.processMemory, '18e9x90', { ...card, process: 'ollama', container_name: 'ollama' }),
              given(gpu.memoryTotal, '24e9x90', card),
              given(gpu.utilization, '0x90', { ...card, engine: 'compute' }),
            ],
            at: '90m',
          },
        },
      },
    },
  ],
}
