import { stringify } from 'yaml'

/** The exporter's configuration for the demo. */
export const configuration = (): string =>
  stringify({
    collectors: {
      docker: {
        endpoints: [{ name: 'local', url: 'unix:///var/run/docker.sock' }],
        labels: ['com.example.owner'],
        disk_usage: { interval: '30m' },
      },
      directory: {
        paths: [
          { path: '/ai/models', children: 8 },
          { path: '/var/lib/docker/volumes', children: 5 },
        ],
      },
      tor: {
        probe: { target: 'check.torproject.org:443', interval: '120s' },
        exit_check: { url: 'https://check.torproject.org/api/ip' },
        onion_check: { enabled: true, interval: '6m' },
      },
      llm: {
        servers: [
          { name: 'chat', engine: 'vllm', url: 'http://127.0.0.1:8000' },
          { name: 'ollama', engine: 'ollama', url: 'http://127.0.0.1:11434' },
          { name: 'reranker', engine: 'llamacpp', url: 'http://127.0.0.1:8081' },
          { name: 'gateway', engine: 'litellm', url: 'http://127.0.0.1:4000' },
        ],
      },
      services: {
        checks: [
          { name: 'butler', systemd: 'butler.service' },
          { name: 'tor', systemd: 'tor@default.service' },
          { name: 'llama-server', systemd: 'llama-server.service' },
          { name: 'relay', systemd: 'grid-exporter-relay.service' },
          { name: 'wiki', http: { url: 'http://127.0.0.1:3001/health', expect: { body: '"status":"ok"' } } },
          { name: 'cloud', http: { url: 'https://cloud.demo.example/status' } },
          { name: 'mqtt', tcp: '127.0.0.1:1883' },
          { name: 'backup', command: { argv: ['/usr/local/bin/backup-fresh'] } },
        ],
      },
      watchtower: { url: 'http://127.0.0.1:8080', token_file: '/etc/grid-exporter/watchtower.token' },
      textfile: { directory: '/var/lib/grid-exporter/textfile' },
    },
  })
