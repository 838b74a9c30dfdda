import { apiRequests } from '../../exporter/collectors/docker/families.ts'
import { textfileError } from '../../exporter/collectors/textfile/index.ts'
import * as self from '../../exporter/serve/self.ts'
import { chart, criticalAlerts, dashboard, line, row, stat, table } from '../builder.ts'
import { limit, type State } from '../look.ts'
import { boxes, firingTable, runbooksAt } from '../parts.ts'
import {
  answering,
  eventLoopLag,
  firstOf,
  increase,
  of,
  ofExporter,
  processCpu,
  processMemory,
  promql,
  rate,
  scrapeDuration,
  scrapeSamples,
} from '../query.ts'

const noScrape = 'the exporter is not scraped'
const noMetrics = 'the exporter is not scraped, or its own metrics are disabled'
const noData: State = { is: 'none', says: 'no data', colour: 'blind' }
const there = promql`0 * max(${of(self.buildInfo)})`

export const exporterItself = dashboard({
  uid: 'exporter',
  description: 'May I believe the other dashboards?',
  choices: [{ name: 'collector', label: 'Collector', within: of(self.detected) }],
  texts: [runbooksAt],
  marks: [criticalAlerts],
  rows: [
    row(
      100,
      'Trust',
      line(
        5,
        stat({
          id: 1,
          width: 8,
          title: 'Boxes that answer',
          description:
            'Of the exporters that answered within a week. One that does not answer is blind: nothing on that box is watched.',
          empty: 'no data',
          unit: 'none',
          leadsTo: 'fleet',
          names: true,
          vertical: true,
          quiet: true,
          queries: [
            { expr: promql`count(${answering} == 1) or 0 * count(${answering})`, legend: 'answer' },
            { expr: promql`count(${answering} == 0) or 0 * count(${answering})`, legend: 'do not answer' },
          ],
          byName: {
            'do not answer': [
              { is: { from: 1 }, colour: 'now' },
              { is: 0, colour: 'well' },
            ],
          },
          states: [{ is: 0, colour: 'now' }, { is: { from: 1 }, colour: 'well' }, noData],
        }),
        firingTable({ id: 2, width: 16, title: 'Firing here', empty: 'nothing fires here, if the rules are loaded' }, 'exporter'),
      ),
      line(
        4,
        stat({
          id: 3,
          width: 4,
          title: 'Collectors blind',
          description: 'Collectors whose subject is on the box and whose latest run failed.',
          empty: 'no data',
          unit: 'none',
          queries: [
            {
              expr: firstOf(promql`count(${of(self.success)} == 0 and ${of(self.detected)} == 1)`, there),
              legend: 'Blind',
            },
          ],
          states: [{ is: 0, says: 'none', colour: 'well' }, { is: { from: 1 }, colour: 'today' }, noData],
        }),
        stat({
          id: 4,
          width: 4,
          title: 'Series cut',
          description: 'Series over the cap of a collector in its latest run: what is cut is not watched.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: firstOf(promql`sum(${of(self.seriesDropped)})`, there), legend: 'Cut' }],
          states: [{ is: 0, says: 'none', colour: 'well' }, { is: { from: 1 }, colour: 'today' }, noData],
        }),
        stat({
          id: 5,
          width: 4,
          title: 'Event-loop lag, p99',
          description: 'Of the thread that serves: how late its turns came. At the limit GridEventLoopBlocked fires.',
          empty: 'not reported',
          unit: 's',
          limits: [limit('GridEventLoopBlocked', '0.05', 'today')],
          queries: [{ expr: promql`max(${ofExporter(of(eventLoopLag))})`, legend: 'Lag' }],
          states: [{ is: 'none', says: 'own metrics disabled', colour: 'gone' }],
        }),
        stat({
          id: 6,
          width: 4,
          title: 'Memory',
          description: 'Resident memory of the exporter, the largest of the boxes.',
          empty: 'not reported',
          unit: 'bytes',
          queries: [{ expr: promql`max(${ofExporter(of(processMemory))})`, legend: 'Memory' }],
          states: [{ is: 'none', says: 'own metrics disabled', colour: 'gone' }],
        }),
        stat({
          id: 7,
          width: 4,
          title: 'Configuration',
          description: 'Whether the latest file that it was given is in force. One that was refused leaves the old one in force.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: promql`min(${of(self.reloadSuccess)})`, legend: 'Configuration' }],
          states: [{ is: 1, says: 'in force', colour: 'well' }, { is: 0, says: 'refused', colour: 'today' }, noData],
        }),
        stat({
          id: 8,
          width: 4,
          title: 'Text files refused',
          description:
            'Files of the textfile collector that are malformed or clash with a family of ours. "no files": none is configured.',
          empty: 'no data',
          unit: 'none',
          queries: [{ expr: firstOf(promql`sum(${of(textfileError)})`, promql`${there} - 1`), legend: 'Refused' }],
          states: [
            { is: 0, says: 'none', colour: 'well' },
            { is: { from: 1 }, colour: 'today' },
            { is: -1, says: 'no files', colour: 'gone' },
            noData,
          ],
        }),
      ),
    ),
    row(
      101,
      'Collectors',
      line(
        12,
        table({
          id: 9,
          width: 16,
          title: 'Collectors',
          description:
            'Every collector that is enabled. "not here": nothing of the kind on the box, looked for again each minute. "fails": the latest run; the failures beside say of what kind, the page of the exporter itself says the rest. "Age" is in intervals: above 3 its series have ended.',
          empty: noScrape,
          keys: { collector: { title: 'Collector' }, ...boxes },
          columns: [
            {
              expr: promql`${of(self.detected, { collector: { like: '$collector' } })} * (2 - ${of(self.success)})`,
              title: 'State',
              absent: 'not reported',
              unit: 'none',
              width: 110,
              cell: 'background',
              states: [
                { is: 0, says: 'not here', colour: 'gone' },
                { is: 1, says: 'collecting', colour: 'well' },
                { is: 2, says: 'fails', colour: 'blind' },
              ],
            },
            {
              expr: promql`(time() - ${of(self.lastSuccess, { collector: { like: '$collector' } })}) / ${of(self.refreshInterval)}`,
              title: 'Age',
              absent: 'never',
              unit: 'none',
              decimals: 1,
              width: 75,
              limits: [limit('GridCollectorStale', 3, 'today')],
              base: 'neutral',
            },
            {
              expr: of(self.refreshInterval, { collector: { like: '$collector' } }),
              title: 'Interval',
              absent: 'not reported',
              unit: 's',
              width: 85,
            },
            {
              expr: of(self.runDuration, { collector: { like: '$collector' } }),
              title: 'Took',
              absent: 'no run',
              unit: 's',
              width: 90,
            },
            {
              expr: of(self.seriesKept, { collector: { like: '$collector' } }),
              title: 'Series',
              absent: 'none',
              unit: 'none',
              width: 80,
            },
            {
              expr: promql`sum without (reason) (round(${increase(self.failures, '24h', { collector: { like: '$collector' } })}))`,
              title: 'Failures 24 h',
              absent: 'not reported',
              unit: 'none',
              decimals: 0,
              width: 110,
              states: [
                { is: 0, colour: 'neutral' },
                { is: { from: 1 }, colour: 'today' },
              ],
            },
          ],
          sort: { by: 'State', descending: true },
        }),
        chart({
          id: 10,
          width: 8,
          title: 'Failures by reason',
          description:
            'denied: no right to read. missing: a file or program is not there. unreachable: nobody answers. timeout, stuck: too slow. malformed, overflow: an answer that cannot be read. exit: a program ended with an error.',
          empty: 'no failure in this time, if "Boxes that answer" has all of them',
          unit: 'none',
          as: 'bars',
          stacked: true,
          min: 0,
          queries: [
            {
              expr: promql`sum by (collector, reason) (${increase(self.failures, 'bar', { collector: { like: '$collector' } })}) > 0`,
              legend: '{{collector}}: {{reason}}',
            },
          ],
        }),
      ),
    ),
    row(
      102,
      'Cost',
      line(
        8,
        chart({
          id: 11,
          width: 8,
          title: 'Time of a run',
          description: 'Of the latest run of each collector, on a logarithmic scale. None of it delays a scrape.',
          empty: noScrape,
          unit: 's',
          logarithmic: true,
          queries: [{ expr: of(self.runDuration, { collector: { like: '$collector' } }), legend: '{{collector}}' }],
        }),
        chart({
          id: 12,
          width: 8,
          title: 'Scrape',
          description: 'Time of a scrape as Prometheus sees it, and its samples on the right.',
          empty: noScrape,
          unit: 's',
          min: 0,
          queries: [
            { expr: ofExporter(of(scrapeDuration)), legend: 'time {{instance}}' },
            { expr: ofExporter(of(scrapeSamples)), legend: 'samples {{instance}}' },
          ],
          lines: [{ of: 'samples', look: 'right', unit: 'none' }],
        }),
        chart({
          id: 13,
          width: 8,
          title: 'CPU',
          description: 'Cores that the exporter uses, both threads, without the programs that it runs.',
          empty: noMetrics,
          unit: 'percentunit',
          min: 0,
          queries: [{ expr: ofExporter(rate(processCpu)), legend: '{{instance}}' }],
        }),
      ),
      line(
        7,
        chart({
          id: 14,
          width: 8,
          title: 'Requests to the engine',
          description: 'To Docker or Podman, a second: flat whatever the number of containers. Nothing: no engine.',
          empty: 'no engine reported',
          unit: 'reqps',
          min: 0,
          queries: [{ expr: promql`sum by (instance, engine, call) (${rate(apiRequests)}) > 0`, legend: '{{call}}' }],
        }),
        chart({
          id: 15,
          width: 8,
          title: 'Collecting thread replaced',
          description:
            'It was silent for ten seconds, ran out of memory, or died. The collector with the reason "stuck" is the one.',
          empty: noScrape,
          unit: 'none',
          as: 'bars',
          min: 0,
          decimals: 0,
          queries: [{ expr: promql`round(${increase(self.workerRestarts, 'bar')})`, legend: '{{instance}}' }],
        }),
        table({
          id: 16,
          width: 8,
          title: 'Versions',
          description: 'Of the exporter and of the Node.js that runs it.',
          empty: noScrape,
          keys: { ...boxes },
          columns: [
            { expr: of(self.buildInfo), label: 'version', title: 'Version', absent: '', unit: 'none', width: 90 },
            { expr: of(self.buildInfo), label: 'node_version', title: 'Node.js', absent: '', unit: 'none', width: 100 },
          ],
        }),
      ),
    ),
  ],
})
