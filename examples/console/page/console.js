// The page of the console: its views, and the ways between them.

import { $, ProblemError, act, api, badge, count, el, flowPath, keep, loadCatalogue, newId, operates, rate, say, state, toast } from './kit.js';
import { decoded, familyOf, protocolOf, scopesOf } from './kinds.js';
import { confirmed, endpointChooser, field, showProblem, summaryOfErrors } from './forms.js';
import { TABS, endpointTab, eventList, settingsTab, statisticsTab } from './flow.js';

// ---- Views

let timer = null;

/** Shows a view: its node once, and its news from time to time. */
function show(title, node, refresh, period) {
  clearTimeout(timer);
  state.view?.leave?.();
  const mine = { refresh };
  state.view = mine;
  document.title = `${title} – StreamLink`;
  $('main').replaceChildren(node);
  for (const link of $('nav').querySelectorAll('a')) {
    const current = link.getAttribute('href') === (location.hash.startsWith('#/events') ? '#/events' : '#/');
    if (current) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const tick = async () => {
    if (state.view !== mine) return;
    try {
      if (!document.hidden) await refresh?.();
    } catch (error) {
      if (error.problem?.status === 404) {
        toast(error.message);
        location.hash = '#/';
        return;
      }
    }
    if (state.view === mine && period) timer = setTimeout(tick, period);
  };
  tick();
  return mine;
}

function showLogin() {
  state.role = null;
  showWho();
  const password = field({ label: 'Password', path: 'password', secret: true, required: true });
  password.input.autocomplete = 'current-password';
  const summary = summaryOfErrors();
  const button = el('button', { type: 'submit', class: 'main' }, 'Log in');
  const form = el('form', { novalidate: true, submit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await api('POST', '/session', { password: password.value });
      await begin();
    } catch (error) {
      const problem = error.problem ?? { detail: error.message };
      showProblem(problem.status === 401 ? { detail: 'The password is wrong.' } : problem, [password], summary);
      password.input.select();
    } finally {
      button.disabled = false;
    }
  } }, summary, el('div', { class: 'row' }, password.node), button);
  show('Log in', el('div', { class: 'card login' }, el('h1', {}, 'Log in'), form));
  password.input.focus();
}

function showFlows() {
  const body = el('tbody', {});
  const table = el('table', { class: 'cards' },
    el('thead', {}, el('tr', {}, ['State', 'Flow', 'Source', 'Rate', 'Outputs'].map((text) => el('th', { scope: 'col' }, text)))), body);
  const empty = el('div', { class: 'empty', hidden: true }, el('p', {}, 'There is no flow yet.'), el('p', { class: 'soft' }, 'A flow takes one source, with or without a backup, and sends it to any number of outputs.'));
  const totals = el('span', { class: 'soft' });
  const filter = el('input', { type: 'search', 'aria-label': 'Filter flows by name', placeholder: 'Filter by name', input: () => update() });
  let flows = [];
  const update = () => {
    const word = filter.value.trim().toLowerCase();
    const shown = flows.filter((flow) => flow.name.toLowerCase().includes(word));
    keep(body, shown, (flow) => flow.name, (flow) => {
      const cells = Object.fromEntries(['State', 'Flow', 'Source', 'Rate', 'Outputs'].map((label) => [label, el('td', { 'data-label': label })]));
      const mark = el('span', {});
      const reason = el('div', { class: 'reason small' });
      cells.State.append(mark);
      const link = el('a', { class: 'name', href: `#/flow/${encodeURIComponent(flow.name)}/source` }, flow.name);
      cells.Flow.append(el('div', {}, link, reason));
      return { node: el('tr', {}, Object.values(cells)), cells, mark, reason };
    }, (row, flow) => {
      badge(row.mark, flow.state);
      row.reason.className = `reason small ${flow.state}`;
      say(row.reason, flow.reason ?? '');
      say(row.cells.Source, `${flow.protocol} · ${flow.source}${flow.sources > 1 ? ` (of ${flow.sources})` : ''}`);
      say(row.cells.Rate, flow.state === 'connected' ? rate(flow.bit_rate) : '–');
      row.cells.Rate.className = 'number';
      const failing = flow.outputs_failing ? `, ${flow.outputs_failing} failing` : '';
      const players = flow.players ? `, ${count(flow.players, 'player')}` : '';
      say(row.cells.Outputs, flow.outputs ? `${flow.outputs_connected} of ${flow.outputs} connected${failing}${players}` : 'none');
    });
    table.hidden = !shown.length;
    empty.hidden = flows.length > 0;
    filter.hidden = flows.length < 8;
    const connected = flows.filter((flow) => flow.state === 'connected').length;
    say(totals, flows.length ? `${connected} of ${count(flows.length, 'flow')} connected` : '');
  };
  const node = el('div', {},
    el('div', { class: 'head' }, el('h1', {}, 'Flows'), totals, el('div', { class: 'actions' }, filter, operates() ? el('a', { class: 'button main', href: '#/create' }, 'Create flow') : null)),
    el('div', { class: 'card' }, table, empty));
  show('Flows', node, async () => {
    ({ flows } = await api('GET', '/flows'));
    update();
  }, 2000);
}

function showCreate() {
  const name = field({ label: 'Flow name', path: 'name', required: true });
  const bandwidth = field({ label: 'Maximum bandwidth', path: 'max_bandwidth', required: true, value: '20M', hint: 'Bit rate that the source may bring, as in 20M or 800k' });
  const source = field({ label: 'Source name', path: 'sources[0].name', required: true, value: 'main' });
  const chooser = endpointChooser(scopesOf('source'), 'sources[0].', {}, 'SRT listener source');
  const backupName = field({ label: 'Name of the second source', path: 'sources[1].name', required: true, value: 'backup' });
  const policies = [['Stay with the backup', 'stay'], ['Return to the first source', 'prefer'], ['Merge both (SMPTE ST 2022-7)', 'merge']];
  const policy = field({ label: 'When the first source comes back', path: 'failover.policy', choices: policies });
  const threshold = field({ label: 'Loss threshold (ms)', path: 'failover.loss_threshold', number: true, placeholder: '500', hint: 'Time without media after which a source counts as lost' });
  let backup = null;
  const second = el('div', { hidden: true });
  const box = el('input', { type: 'checkbox', id: newId(), change: () => build() });
  const build = () => {
    second.hidden = !box.checked;
    backup = box.checked ? endpointChooser(scopesOf('source').filter((scope) => familyOf(protocolOf(scope)) === familyOf(protocolOf(chooser.scope))), 'sources[1].', {}, chooser.scope) : null;
    second.replaceChildren(...(backup ? [el('div', { class: 'row' }, backupName.node, backup.kind.node, policy.node, threshold.node), backup.place] : []));
  };
  chooser.kind.input.addEventListener('change', build);
  const fields = () => [name, bandwidth, source, ...chooser.fields, ...(backup ? [backupName, policy, threshold, ...backup.fields] : [])];
  const summary = summaryOfErrors();
  const save = el('button', { type: 'submit', class: 'main' }, 'Create flow');
  const form = el('form', { novalidate: true, submit: async (event) => {
    event.preventDefault();
    const body = { name: name.value, max_bandwidth: bandwidth.value, sources: [{ name: source.value, ...chooser.read() }] };
    if (backup) {
      body.sources.push({ name: backupName.value, ...backup.read() });
      body.failover = { policy: policy.value };
      if (threshold.value) body.failover.loss_threshold = threshold.value;
    }
    save.disabled = true;
    try {
      const flow = await api('POST', '/flows', body);
      toast(`Flow ${flow.name} created.`);
      location.hash = `#/flow/${encodeURIComponent(flow.name)}/source`;
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      showProblem(error.problem, fields(), summary);
    } finally {
      save.disabled = false;
    }
  } },
    summary,
    el('div', { class: 'card' }, el('div', { class: 'row' }, name.node, bandwidth.node)),
    el('fieldset', { class: 'card' }, el('legend', {}, 'Source'), el('div', { class: 'row' }, source.node, chooser.kind.node), chooser.place),
    el('fieldset', { class: 'card' }, el('legend', {}, 'Failover'), el('label', { class: 'check', for: box.id }, box, 'Add a second input address, which takes over when the first is lost'), second),
    el('div', { class: 'actions' }, el('a', { class: 'button', href: '#/' }, 'Cancel'), save));
  show('Create flow', el('div', {}, el('div', { class: 'head' }, el('h1', {}, 'Create flow')), form));
  name.input.focus();
}

function showEvents() {
  const list = eventList(null);
  const mine = show('Events', el('div', {}, el('div', { class: 'head' }, el('h1', {}, 'Events')), list.node));
  mine.leave = list.end;
  list.begin().catch((error) => toast(error.message));
}

async function showFlow(name, tab) {
  let flow;
  try {
    flow = await api('GET', flowPath(name));
  } catch (error) {
    if (error.problem?.status !== 401) {
      toast(error.message);
      location.hash = '#/';
    }
    return;
  }
  const current = () => flow;
  const mark = el('span', {});
  const reason = el('span', { class: 'reason' });
  const total = el('span', { class: 'soft number' });
  const buttons = el('div', { class: 'actions' });
  let toggle = null;
  if (operates()) {
    toggle = el('button', { type: 'button', click: () => act(toggle, () => api('PATCH', flowPath(name), { enabled: !flow.enabled })) });
    const remove = el('button', { type: 'button', class: 'danger', click: async () => {
      if (!await confirmed(`Delete flow ${name}?`, 'Its source and all its outputs are disconnected, and its keys are lost.', 'Delete')) return;
      act(remove, async () => {
        state.view.refresh = null;
        await api('DELETE', flowPath(name));
        toast(`Flow ${name} deleted.`);
        location.hash = '#/';
      });
    } }, 'Delete flow');
    buttons.append(toggle, remove);
  }
  const tabs = el('nav', { class: 'tabs', 'aria-label': `Flow ${name}` }, TABS.map(([key, label]) => el('a', { href: `#/flow/${encodeURIComponent(name)}/${key}`, 'aria-current': key === tab ? 'page' : null }, label)));
  const events = tab === 'events' ? eventList(name) : null;
  const part = {
    source: () => endpointTab(current, 'source'),
    output: () => endpointTab(current, 'output'),
    events: () => ({ node: events.node, update() {} }),
    statistics: () => statisticsTab(current),
    settings: () => settingsTab(flow, () => showFlow(name, tab)),
  }[tab]();
  const node = el('div', {}, el('div', { class: 'head' }, el('h1', {}, name), mark, total, reason, buttons), tabs, part.node);
  const paint = () => {
    badge(mark, flow.state);
    say(reason, flow.reason ?? '');
    reason.className = `reason ${flow.state}`;
    say(total, flow.state === 'connected' ? `${rate(flow.bit_rate)} in, ${rate(flow.output_bit_rate)} out` : '');
    if (toggle) say(toggle, flow.enabled ? 'Stop' : 'Start');
    return part.update(flow);
  };
  paint();
  const mine = show(`${name}: ${tab}`, node, async () => {
    flow = await api('GET', flowPath(name));
    await paint();
  }, 1000);
  if (events) {
    mine.leave = events.end;
    events.begin().catch((error) => toast(error.message));
  }
}

// ---- Ways

function showWho() {
  $('nav').hidden = !state.role;
  $('who').hidden = !state.role || !state.needsPassword;
  say($('role'), state.role === 'viewer' ? 'Viewer' : 'Operator');
}

let lastPlace = null;

function route() {
  if (!state.role) return;
  const [, place = '', name = '', tab = ''] = location.hash.split('/');
  for (const dialog of document.querySelectorAll('dialog')) dialog.close();
  const known = TABS.some(([key]) => key === tab) ? tab : 'source';
  const there = `${place}/${name}`;
  // Focus goes to the content of another place, and to the tab that was chosen; a page that is opened keeps it.
  const isFirst = lastPlace === null;
  const moves = !isFirst && lastPlace !== there;
  lastPlace = there;
  if (place === 'create' && operates()) showCreate();
  else if (place === 'events') showEvents();
  else if (place === 'flow' && name) showFlow(decoded(name), known).then(() => { if (!isFirst) document.querySelector('.tabs a[aria-current]')?.focus(); });
  else showFlows();
  if (moves && place !== 'create' && place !== 'flow') $('main').focus();
}

async function begin() {
  const session = await api('GET', '/session');
  ({ role: state.role, needs_password: state.needsPassword } = session);
  showWho();
  if (!state.role) return showLogin();
  await loadCatalogue();
  route();
}

addEventListener('hashchange', route);
document.addEventListener('visibilitychange', () => { if (!document.hidden) state.view?.refresh?.()?.catch?.(() => {}); });
$('logout').addEventListener('click', async () => {
  await api('DELETE', '/session');
  showLogin();
});
state.unauthorized = showLogin;
begin().catch((error) => toast(error.message));
