// The page: signs in, shows the view that the address names, and says when the node is away.

import { connection } from './connection.js';
import { fill, h } from './dom.js';
import * as drop from './drop.js';
import { events } from './events.js';
import { history } from './history.js';
import { icon } from './icons.js';
import { complain } from './notes.js';
import * as router from './router.js';
import { session } from './session.js';
import * as tray from './tray.js';
import './vitals.js';
import * as activity from './views/activity.js';
import * as file from './views/file.js';
import * as files from './views/files.js';
import * as nowhere from './views/nowhere.js';
import * as overview from './views/overview.js';
import * as peers from './views/peers.js';
import * as settings from './views/settings.js';
import * as signin from './views/signin.js';

const VIEWS = { overview, files, file, peers, activity, settings };
const main = document.getElementById('main');
const nav = document.getElementById('nav');
const banner = document.getElementById('banner');

const entry = (name, label) => h('a', { href: `#/${name}`, 'data-view': name }, icon(name), h('span', {}, label));

function drawNav() {
  nav.hidden = !session.scope;
  fill(
    nav,
    entry('overview', 'Overview'),
    entry('files', 'Files'),
    entry('peers', 'Peers'),
    entry('activity', 'Activity'),
    entry('settings', 'Settings'),
  );
}

let shownAs = null;
/** Whether the page has begun: what it shows first takes no focus. */
let begun = false;

function draw(moveFocus) {
  const place = router.parse();
  const view = session.scope ? (VIEWS[place.view] ?? nowhere) : signin;
  for (const link of nav.querySelectorAll('a')) {
    const name = place.view === 'file' ? 'files' : place.view;
    if (link.dataset.view === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  shownAs = session.scope;
  router.show(main, view, place, moveFocus);
}

function drawBanner() {
  banner.hidden = connection.online;
  if (connection.online) fill(banner);
  else
    fill(
      banner,
      icon('warning'),
      h(
        'p',
        {},
        h('strong', {}, 'The node does not answer. '),
        'What you see may be old. Check that storgo-node runs. Uploads wait, and go on when it answers again; where it was started anew, after you have signed in again in this tab.',
      ),
    );
}

document.getElementById('skip').addEventListener('click', (event) => {
  // The address belongs to the views.
  event.preventDefault();
  main.querySelector('h1')?.focus();
});
addEventListener('hashchange', () => {
  if (/^#signin=/.test(location.hash)) session.begin().then(() => draw(true));
  else draw(true);
});
session.addEventListener('change', () => {
  drawNav();
  if (shownAs !== session.scope) draw(begun);
});
connection.addEventListener('change', () => {
  drawBanner();
  history.add({ type: connection.online ? 'answers' : 'silent' });
});
events.addEventListener('event', ({ detail }) => {
  if (detail.type !== 'transfer') history.add(detail);
});
addEventListener('unhandledrejection', (event) => {
  event.preventDefault();
  complain(event.reason);
});

tray.begin(document.getElementById('tray'));
drop.begin(document.getElementById('drop'));
await session.begin();
begun = true;
if (shownAs !== session.scope || !session.scope) draw(false);
