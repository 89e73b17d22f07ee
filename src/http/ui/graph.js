// What goes up and down, as two lines: whole and dashed, so that they differ without colour.

import { fill, h, say, svg } from './dom.js';
import { rate } from './format.js';
import { EVERY_MS, POINTS } from './vitals.js';

const WIDTH = 600;
const HEIGHT = 140;

/** The highest value of the scale: a round number (1, 2 or 5 times a power of 1024-based units) above `value`. */
function ceiling(value) {
  let top = 1024;
  for (let step = 0; top < value; step += 1) top *= step % 3 === 1 ? 2.5 : 2;
  return top;
}

function line(rates, key, top) {
  const from = POINTS - rates.length;
  return rates
    .map((point, i) => {
      const x = ((from + i) / (POINTS - 1)) * WIDTH;
      const y = HEIGHT - 2 - (point[key] / top) * (HEIGHT - 6);
      return `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join('');
}

/** A figure with `update(rates)`. */
export function graph() {
  const up = svg('path', { class: 'line up' });
  const down = svg('path', { class: 'line down' });
  const grid = [0.25, 0.5, 0.75].map((part) => svg('path', { class: 'grid', d: `M0 ${HEIGHT * part}H${WIDTH}` }));
  const picture = svg(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true', class: 'graph' },
    grid,
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
    h('div', { class: 'frame' }, scale, picture),
    h(
      'figcaption',
      {},
      h('span', {}, key('up'), 'up ', upNow),
      h('span', {}, key('down'), 'down ', downNow),
      h('span', { class: 'hint' }, `last ${(POINTS * EVERY_MS) / 60000} minutes`),
    ),
  );
  return {
    element,
    update(rates) {
      const top = ceiling(Math.max(0, ...rates.flatMap(({ up: u, down: d }) => [u, d])));
      up.setAttribute('d', line(rates, 'up', top));
      down.setAttribute('d', line(rates, 'down', top));
      const last = rates.at(-1) ?? { up: 0, down: 0 };
      say(scale, rate(top));
      say(upNow, rate(last.up));
      say(downNow, rate(last.down));
    },
  };
}

/** A bar of parts: [{label, value, kind}]; what a part is shows by its pattern and by the words below. */
export function bar(parts, total, format) {
  const share = (value) => (total > 0 ? (value / total) * 100 : 0);
  let x = 0;
  const shapes = parts.map(({ value, kind }) => {
    const width = value > 0 ? Math.max(share(value), 0.4) : 0;
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
