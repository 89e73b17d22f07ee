// Charts as SVG: the traffic chart and the stacked bar. Series differ by pattern as well as by colour.

import { fill, h, setText, svg } from './dom.js';
import { rate } from './format.js';
import { INTERVAL_MS, MAX_SAMPLES } from './node-status.js';

const WIDTH = 600;
const HEIGHT = 140;

const ROUND = [1, 2, 5, 10, 20, 50, 100, 200, 500];

/** The upper end of the scale: a round number of KiB, MiB, … that is at least `value`. */
function scaleMax(value) {
  let unit = 1024;
  while (unit * ROUND.at(-1) < value) unit *= 1024;
  return unit * ROUND.find((factor) => unit * factor >= value);
}

function linePath(rates, key, max) {
  const offset = MAX_SAMPLES - rates.length;
  return rates
    .map((sample, i) => {
      const x = ((offset + i) / (MAX_SAMPLES - 1)) * WIDTH;
      const y = HEIGHT - 2 - (sample[key] / max) * (HEIGHT - 6);
      return `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join('');
}

/** A chart of upload and download rates: {element, update(rates)}. */
export function trafficChart() {
  const up = svg('path', { class: 'line up' });
  const down = svg('path', { class: 'line down' });
  const gridLines = [0.25, 0.5, 0.75].map((part) => svg('path', { class: 'grid', d: `M0 ${HEIGHT * part}H${WIDTH}` }));
  const chart = svg(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true', class: 'graph' },
    gridLines,
    down,
    up,
  );
  const scale = h('span', { class: 'scale' });
  const upNow = h('strong');
  const downNow = h('strong');
  const key = (name) =>
    svg(
      'svg',
      { viewBox: '0 0 28 8', class: 'key', 'aria-hidden': 'true' },
      svg('path', { class: `line ${name}`, d: 'M0 4H28' }),
    );
  const element = h(
    'figure',
    {},
    h('div', { class: 'frame' }, scale, chart),
    h(
      'figcaption',
      {},
      h('span', {}, key('up'), 'Sent ', upNow),
      h('span', {}, key('down'), 'Received ', downNow),
      h('span', { class: 'hint' }, `Last ${(MAX_SAMPLES * INTERVAL_MS) / 60000} minutes`),
    ),
  );
  return {
    element,
    update(rates) {
      const max = scaleMax(Math.max(0, ...rates.flatMap((sample) => [sample.up, sample.down])));
      up.setAttribute('d', linePath(rates, 'up', max));
      down.setAttribute('d', linePath(rates, 'down', max));
      const last = rates.at(-1) ?? { up: 0, down: 0 };
      setText(scale, rate(max));
      setText(upNow, rate(last.up));
      setText(downNow, rate(last.down));
    },
  };
}

/** A bar of parts with a legend. `parts`: [{label, value, kind}]. */
export function stackedBar(parts, total, format) {
  const percent = (value) => (total > 0 ? (value / total) * 100 : 0);
  let x = 0;
  const shapes = parts.map(({ value, kind }) => {
    const width = value > 0 ? Math.max(percent(value), 0.4) : 0;
    const shape = svg('rect', { x, y: 0, width, height: 10, class: `part ${kind}` });
    x += width;
    return shape;
  });
  const stripes = (id, width) =>
    svg(
      'pattern',
      { id, width, height: 10, patternUnits: 'userSpaceOnUse' },
      svg('rect', { width: width / 2, height: 10, class: 'stripe' }),
    );
  const legend = parts.map(({ label, value, kind }) =>
    h(
      'li',
      {},
      svg(
        'svg',
        { viewBox: '0 0 10 10', class: 'swatch', 'aria-hidden': 'true' },
        svg('defs', {}, stripes('stripes-key', 4)),
        svg('rect', { width: 10, height: 10, class: `part ${kind} sample` }),
      ),
      `${label} `,
      h('strong', {}, format(value)),
    ),
  );
  return h(
    'div',
    { class: 'bar' },
    svg(
      'svg',
      { viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      svg('defs', {}, stripes('stripes', 1)),
      svg('rect', { width: 100, height: 10, class: 'part rest' }),
      shapes,
    ),
    fill(h('ul', { class: 'legend' }), legend),
  );
}
