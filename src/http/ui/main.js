// Entry point: signs in, shows the view that the address names, and tells the user when the node is offline.

import { activityLog } from './activity-log.js';
import { connection } from './connection.js';
import { fill, h } from './dom.js';
import * as dragAndDrop from './drag-and-drop.js';
import { events } from './events.js';
import { icon } from './icons.js';
import './node-status.js';
import * as router from './router.js';
import { session } from './session.js';
import { reportProblem } from './toasts.js';
import * as uploadList from './upload-list.js';
import * as activity from './views/activity.js';
import * as file from './views/file.js';
import * as files from './views/files.js';
import * as notFound from './views/not-found.js';
import * as overview from './views/overview.js';
import * as peers from './views/peers.js';
import * as settings from './views/settings.js';
import * as signin from './views/signin.js';

const VIEWS = { overview, files, file, peers, activity, settings };
const main = document.getElementById('main');
const nav = document.getElementById('nav');
const banner = document.getElementById('banner');

const navLink = (name, label) => h('a', { href: `#/${name}`, 'data-view': name }, icon(name), h('span', {}, label));

function drawNav() {
  nav.hidden = !session.scope;
  fill(
    nav,
    navLink('overview', 'Overview'),
    navLink('files', 'Files'),
    navLink('peers', 'Peers'),
    navLink('activity', 'Activity'),
    navLink('settings', 'Settings'),
  );
}

/** The scope for which the current view was drawn. */
let drawnScope = null;
/** False until the first view is shown: that one does not take the focus. */
let started = false;

function draw(moveFocus) {
  const location = router.parse();
  const view = session.scope ? (VIEWS[location.view] ?? notFound) : signin;
  for (const link of nav.querySelectorAll('a')) {
    const name = location.view === 'file' ? 'files' : location.view;
    if (link.dataset.view === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  drawnScope = session.scope;
  router.show(main, view, location, moveFocus);
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
        'This page may be out of date. Check that storgo-node is running. Uploads resume when the node is back.',
      ),
    );
}

document.getElementById('skip').addEventListener('click', (event) => {
  // The fragment of the address names the view, so the link must not change it.
  event.preventDefault();
  main.querySelector('h1')?.focus();
});
addEventListener('hashchange', () => {
  if (/^#signin=/.test(location.hash)) session.start().then(() => draw(true));
  else draw(true);
});
session.addEventListener('change', () => {
  drawNav();
  if (drawnScope !== session.scope) draw(started);
});
connection.addEventListener('change', () => {
  drawBanner();
  activityLog.add({ type: connection.online ? 'node_online' : 'node_offline' });
});
events.addEventListener('event', ({ detail }) => {
  if (detail.type !== 'transfer') activityLog.add(detail);
});
addEventListener('unhandledrejection', (event) => {
  event.preventDefault();
  reportProblem(event.reason);
});

uploadList.start(document.getElementById('upload-list'));
dragAndDrop.start(document.getElementById('drop-overlay'));
await session.start();
started = true;
if (drawnScope !== session.scope || !session.scope) draw(false);
