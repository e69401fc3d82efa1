// Parts of the page of one flow: its addresses, events, endpoints, charts and settings.

import { ProblemError, SVG, act, api, badge, duration, el, endpointPath, flowPath, keep, newId, operates, rate, say, time, toast } from './kit.js';
import { kindOf } from './kinds.js';
import { confirmed, field, openEndpoint, showProblem, summaryOfErrors } from './forms.js';

// ---- Addresses that are copied

async function copy(text, input) {
  try {
    await navigator.clipboard.writeText(text);
    toast('Copied.');
  } catch {
    // Without HTTPS a browser lets no page write to the clipboard: the text is selected instead.
    input.value = text;
    input.focus();
    input.select();
    toast('Selected: press Ctrl+C to copy.');
  }
}

/** A line with an address and a button that copies it. `reveal` returns the whole of it, for operators. */
function addressLine(label, reveal) {
  const id = newId();
  const input = el('input', { id, readonly: true, focus: () => input.select() });
  const button = el('button', { type: 'button', 'aria-label': `Copy: ${label}`, click: () => act(button, async () => copy(await reveal(), input)) }, 'Copy');
  return { node: el('div', { class: 'address' }, el('label', { for: id }, label), input, button), input, set(value) { if (document.activeElement !== input && input.value !== value) input.value = value; } };
}

/** Addresses of an endpoint that listens; for RTMP also server and key apart, as OBS wants them. */
function addresses(flow, direction, name) {
  const node = el('div', {});
  let lines = null;
  const secret = async () => {
    const secrets = await api('GET', `${flowPath(flow())}/secrets`);
    return secrets.addresses.find((address) => address.direction === direction && address.name === name) ?? {};
  };
  return {
    node,
    update(address, ipv4) {
      node.hidden = !address;
      if (!address) return;
      if (!lines) {
        const whole = address.includes('…');
        const reveal = (member, shown = address) => async () => (operates() ? (await secret())[member] ?? shown : shown);
        lines = { url: addressLine(direction === 'source' ? 'Input address' : 'Playback URL', reveal('url')) };
        node.append(lines.url.node);
        if (ipv4) {
          lines.url_ipv4 = addressLine('The same over IPv4', reveal('url_ipv4', ipv4));
          node.append(lines.url_ipv4.node);
        }
        if (/^rtmps?:/.test(address) && operates()) {
          lines.server = addressLine('Server (for OBS)', reveal('server'));
          lines.key = addressLine('Stream key (for OBS)', reveal('key'));
          node.append(lines.server.node, lines.key.node);
        }
        if (whole && operates()) {
          const show = el('button', { type: 'button', class: 'quiet', click: () => act(show, async () => {
            const found = await secret();
            lines.shown = found;
            for (const member of ['url', 'url_ipv4', 'server', 'key']) lines[member]?.set(found[member] ?? '');
            show.hidden = true;
          }) }, 'Show the stream key');
          node.append(show);
        }
      }
      if (lines.shown) return;
      lines.url.set(address);
      lines.url_ipv4?.set(ipv4 ?? '');
      lines.server?.set(address.slice(0, address.lastIndexOf('/')));
      lines.key?.set('…');
    },
  };
}

// ---- Events

const BAD = ['source_lost', 'output_lost', 'missed'];
const WARN = ['source_retrying', 'output_retrying', 'peer_refused', 'bandwidth_exceeded', 'output_lagging', 'output_oversized', 'transport_error', 'senders_collide', 'timestamps_ahead', 'calls_own_address', 'unexpected_payload', 'gap_given_up', 'merge_window_missed', 'member_lost', 'region_waiting', 'region_retrying', 'region_lagging', 'region_leg_lost', 'region_leg_lossy', 'switched'];

function eventLine(event, withFlow) {
  const level = BAD.includes(event.event) || /^(the flow cannot|nothing can be stored)/.test(event.text) ? 'bad' : WARN.includes(event.event) ? 'warn' : '';
  const by = event.by ? ` (${event.by})` : '';
  return el('li', { class: level }, el('span', { class: 'soft small number' }, time(event.at_ms)),
    el('span', { class: 'what' }, withFlow && event.flow ? el('a', { href: `#/flow/${encodeURIComponent(event.flow)}/events` }, event.flow) : null, withFlow && event.flow ? ': ' : '', event.text, by));
}

/** A list of the latest events that grows as they happen. */
export function eventList(flow) {
  const list = el('ol', { class: 'events', 'aria-live': 'polite', 'aria-relevant': 'additions' });
  const none = el('p', { class: 'soft', hidden: true }, 'Nothing has happened yet.');
  let stream = null;
  let again = null;
  let isOver = false;
  const begin = async () => {
    const { events } = await api('GET', `${flow ? flowPath(flow) : ''}/events?limit=100`);
    if (isOver) return;
    list.replaceChildren(...events.map((event) => eventLine(event, !flow)));
    none.hidden = events.length > 0;
    const query = new URLSearchParams({ after: events[0]?.id ?? 0, ...(flow ? { flow } : {}) });
    stream = new EventSource(`/api/v1/events/stream?${query}`);
    stream.onmessage = ({ data }) => {
      list.prepend(eventLine(JSON.parse(data), !flow));
      none.hidden = true;
      while (list.children.length > 500) list.lastChild.remove();
    };
    // The list is read anew where the stream could not keep up, or is refused; a stream that breaks off comes back itself.
    stream.addEventListener('missed', () => retry(0));
    stream.onerror = () => {
      if (stream.readyState === EventSource.CLOSED) retry(5000);
    };
  };
  const retry = (delay) => {
    stream?.close();
    if (!isOver) again = setTimeout(() => begin().catch(() => retry(5000)), delay);
  };
  const end = () => {
    isOver = true;
    clearTimeout(again);
    stream?.close();
  };
  return { node: el('div', { class: 'card' }, list, none), begin, end };
}

// ---- One flow

export const TABS = [['source', 'Source'], ['output', 'Output'], ['events', 'Events'], ['statistics', 'Statistics'], ['settings', 'Settings']];

/** Facts whose values are long. */
const LONG = ['Address', 'Media', 'Members', 'Refused', 'Allowlist'];

function facts() {
  const node = el('dl', { class: 'facts' });
  return {
    node,
    update(values) {
      keep(node, values.filter(([, value]) => value !== null && value !== undefined && value !== ''), ([label]) => label, ([label]) => {
        const value = el('dd', {});
        return { node: el('div', LONG.includes(label) ? { class: 'double' } : {}, el('dt', {}, label), value), value };
      }, (part, [, value]) => say(part.value, String(value)));
    },
  };
}

/** Number of refused peers, with that of each reason. */
function refusals(stats) {
  const reasons = stats.refusals.map(({ reason, count }) => `${reason.replace('refused_', '').replaceAll('_', ' ')}: ${count}`);
  return reasons.length ? `${stats.refused} (${reasons.join(', ')})` : stats.refused;
}

/** Members of a group of connections, each with its state. */
function members(stats) {
  return stats.members.map((member) => `${member.address}: ${member.connected_ms === null ? 'not connected' : `connected for ${duration(member.connected_ms)}`}`).join(', ');
}

function endpointFacts(direction, stats) {
  if (!stats) return [];
  return [
    ['Rate', stats.state === 'connected' ? rate(stats.bit_rate) : null],
    ['Connected for', stats.connected_ms === null ? null : duration(stats.connected_ms)],
    [direction === 'source' ? 'Sender' : 'Destination', stats.peer],
    ['Media', stats.media],
    ['Lost', stats.lost || stats.state === 'connected' ? stats.lost : null],
    ['Retransmitted', stats.retransmitted || null],
    ['Dropped', stats.dropped || null],
    ['Refused', stats.refused ? refusals(stats) : null],
    ['Round trip', stats.round_trip_ms ? `${stats.round_trip_ms.toFixed(1)} ms` : null],
    ['Latency', stats.latency_ms ? `${stats.latency_ms} ms` : null],
    ['Video', stats.video_frame_rate ? `${stats.video_frame_rate.toFixed(1)} frames/s` : null],
    ['Encrypted', stats.encrypted ? 'yes' : null],
    ['Members', members(stats)],
    ['Players', stats.url && direction === 'output' ? stats.players.length : null],
    ['Reconnections', stats.reconnections || null],
  ];
}

/** Card of one source or output. */
function endpointCard(current, direction, endpoint) {
  const { name } = endpoint;
  const flow = () => current().name;
  const path = () => endpointPath(flow(), direction, name);
  const state = el('span', {});
  const kind = el('span', { class: 'soft' });
  const active = el('span', { class: 'badge connected', hidden: true }, 'feeds the flow');
  const description = el('p', { class: 'soft' });
  const reason = el('p', { class: 'reason', role: 'note' });
  const where = addresses(flow, direction, name);
  const values = facts();
  const buttons = el('div', { class: 'actions' });
  const parts = { toggle: null, remove: null, change: null };
  if (operates()) {
    if (direction === 'source') {
      parts.change = el('button', { type: 'button', click: () => act(parts.change, async () => {
        await api('POST', `${path()}/switch`);
        toast(`The flow switches to ${name} at the next picture to begin with.`);
      }) }, 'Switch to this source');
    }
    const edit = el('button', { type: 'button', 'aria-label': `Edit ${direction} ${name}`, click: () => act(edit, () => openEndpoint(current(), direction, latest)) }, 'Edit');
    parts.toggle = el('button', { type: 'button', click: () => act(parts.toggle, () => api('PATCH', path(), { enabled: !latest.enabled })) });
    parts.remove = el('button', { type: 'button', class: 'danger', 'aria-label': `Delete ${direction} ${name}`, click: async () => {
      if (!await confirmed(`Delete ${direction} ${name}?`, direction === 'source' ? 'Its encoders are disconnected.' : 'Its peers are disconnected.', 'Delete')) return;
      act(parts.remove, async () => {
        await api('DELETE', path());
        toast(`${name} deleted.`);
      });
    } }, 'Delete');
    buttons.append(...[parts.change, edit, parts.toggle, parts.remove].filter(Boolean));
  }
  const heading = el('h2', { id: newId() }, name);
  const node = el('section', { class: 'card endpoint', 'aria-labelledby': heading.id },
    el('div', { class: 'head' }, heading, state, active, kind, buttons), description, reason, where.node, values.node);
  let latest = endpoint;
  return {
    node,
    update(news, list) {
      latest = news;
      const stats = news.statistics;
      badge(state, news.enabled ? stats?.state ?? 'stopped' : 'disabled');
      say(kind, kindOf(news.scope).label);
      active.hidden = !stats?.active;
      say(description, news.configuration.description ?? '');
      description.hidden = !news.configuration.description;
      const error = news.enabled && stats && stats.state !== 'connected' ? stats.last_error : null;
      const waits = news.enabled && stats?.state === 'waiting' && !error ? (direction === 'source' ? 'Waits for media.' : news.address ? 'Waits for players.' : 'Connecting.') : '';
      say(reason, error ? `${error.text} (${duration(error.age_ms)} ago)` : waits);
      reason.className = error ? 'reason failed' : 'soft';
      reason.hidden = !reason.textContent;
      where.update(news.address, news.address_ipv4);
      const target = news.address ? [] : [['Address', news.configuration.url]];
      values.update([...target, ...endpointFacts(direction, stats), ['Region', news.configuration.region], ['Allowlist', news.configuration.allow?.replaceAll(';', '; ')]]);
      if (parts.toggle) say(parts.toggle, news.enabled ? 'Disable' : 'Enable');
      parts.toggle?.setAttribute('aria-label', `${news.enabled ? 'Disable' : 'Enable'} ${direction} ${name}`);
      if (parts.change) parts.change.hidden = list.length < 2 || Boolean(stats?.active) || !news.enabled;
      if (parts.remove) parts.remove.hidden = direction === 'source' && list.length < 2;
    },
  };
}

export function endpointTab(current, direction) {
  const list = el('div', {});
  const empty = el('div', { class: 'card empty', hidden: true }, direction === 'output' ? 'No output yet: the media goes nowhere.' : '');
  const add = operates() ? el('button', { type: 'button', class: 'main', click: () => act(add, () => openEndpoint(current(), direction, null)) }, direction === 'source' ? 'Add a backup source' : 'Create output') : null;
  return {
    node: el('div', {}, add ? el('div', { class: 'head' }, el('div', { class: 'actions' }, add)) : null, list, empty),
    update(flow) {
      const endpoints = flow[`${direction}_list`];
      keep(list, endpoints, (endpoint) => `${endpoint.name}\n${endpoint.scope}`, (endpoint) => endpointCard(current, direction, endpoint), (card, endpoint) => card.update(endpoint, endpoints));
      empty.hidden = endpoints.length > 0;
    },
  };
}

/** A chart of values of the last minutes. */
function chart(title) {
  const make = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const svg = make('svg', { class: 'chart', viewBox: '0 0 300 90', preserveAspectRatio: 'none', role: 'img' });
  const area = make('path', { class: 'area' });
  const line = make('path', { class: 'line' });
  svg.append(make('line', { class: 'base', x1: 0, x2: 300, y1: 89, y2: 89 }), area, line);
  const now = el('span', { class: 'number' });
  const node = el('figure', {}, el('figcaption', {}, el('span', {}, title), now), svg, el('div', { class: 'soft small number' }));
  return {
    node,
    update(values, text) {
      const most = Math.max(...values, 0);
      const scale = most > 0 ? 80 / most : 0;
      const start = 300 - values.length + 1;
      const points = values.map((value, at) => `${start + at} ${(89 - value * scale).toFixed(1)}`);
      line.setAttribute('d', points.length > 1 ? `M${points.join('L')}` : '');
      area.setAttribute('d', points.length > 1 ? `M${start} 89L${points.join('L')}L300 89Z` : '');
      const last = values.at(-1) ?? 0;
      say(now, text(last));
      say(node.lastChild, `most in 5 minutes: ${text(most)}`);
      svg.setAttribute('aria-label', `${title}: now ${text(last)}, most in the last five minutes ${text(most)}`);
    },
  };
}

export function statisticsTab(current) {
  const charts = el('div', { class: 'charts' });
  const body = el('tbody', {});
  const heads = ['Output', 'Peer', 'Connected for', 'Sent', 'Lost', 'Round trip', 'Action'];
  const table = el('table', { class: 'cards' }, el('thead', {}, el('tr', {}, heads.map((text) => el('th', { scope: 'col' }, text)))), body);
  const none = el('p', { class: 'soft' }, 'Nobody is connected.');
  const kick = (output, peer) => {
    const button = el('button', { type: 'button', class: 'danger', 'aria-label': `Disconnect ${peer} of ${output}`, click: () => act(button, async () => {
      await api('POST', `${endpointPath(current().name, 'output', output)}/kick`, { peer });
      toast(`${peer} disconnected.`);
    }) }, 'Disconnect');
    return button;
  };
  return {
    node: el('div', {}, charts, el('section', { class: 'card', 'aria-label': 'Connected peers' }, el('h2', {}, 'Who is connected'), table, none)),
    async update(flow) {
      const { series } = await api('GET', `${flowPath(flow.name)}/samples`);
      const order = [...flow.source_list.map((part) => `source ${part.name}`), ...flow.output_list.map((part) => `output ${part.name}`)];
      const place = (part) => order.indexOf(`${part.direction} ${part.name}`);
      series.sort((a, b) => place(a) - place(b));
      const shown = [];
      for (const part of series) {
        const title = `${part.direction === 'source' ? 'Source' : 'Output'} ${part.name}`;
        shown.push({ title: `${title}: rate`, values: part.bit_rate, text: rate });
        if (part.direction === 'source' || part.lost.some(Boolean)) shown.push({ title: `${title}: lost packets`, values: part.lost, text: (value) => `${value}/s` });
        if (part.round_trip_ms.some(Boolean)) shown.push({ title: `${title}: round trip`, values: part.round_trip_ms, text: (value) => `${value.toFixed(1)} ms` });
      }
      keep(charts, shown, (item) => item.title, (item) => chart(item.title), (part, item) => part.update(item.values, item.text));
      const players = flow.output_list.flatMap((output) => (output.statistics?.players ?? []).map((player) => ({ output: output.name, listens: Boolean(output.address), ...player })));
      keep(body, players, (player) => `${player.output} ${player.peer}`, (player) => {
        const cells = heads.map((label) => el('td', { 'data-label': label }));
        if (operates() && player.listens) cells[6].append(kick(player.output, player.peer));
        return { node: el('tr', {}, cells), cells };
      }, ({ cells }, player) => {
        say(cells[0], player.output);
        say(cells[1], player.peer);
        say(cells[2], duration(player.connected_ms));
        say(cells[3], `${(player.bytes / 1e6).toFixed(1)} MB`);
        say(cells[4], String(player.lost + player.dropped));
        say(cells[5], player.round_trip_ms ? `${player.round_trip_ms.toFixed(1)} ms` : '–');
      });
      table.hidden = !players.length;
      none.hidden = players.length > 0;
    },
  };
}

export function settingsTab(flow, reload) {
  const given = flow.configuration;
  const failover = given.failover ?? {};
  const name = field({ label: 'Flow name', path: 'name', required: true, value: flow.name, hint: 'Another name starts the flow anew' });
  const bandwidth = field({ label: 'Maximum bandwidth', path: 'max_bandwidth', required: true, value: given.max_bandwidth });
  const policy = field({ label: 'Above the maximum bandwidth', path: 'bandwidth_policy', value: given.bandwidth_policy, choices: [['Drop packets', 'drop'], ['Disconnect the source', 'disconnect'], ['Only warn', 'warn']] });
  const policies = [['Stay with the backup', 'stay'], ['Return to the first source', 'prefer'], ['Merge the sources (SMPTE ST 2022-7)', 'merge']];
  const change = field({ label: 'When the first source comes back', path: 'failover.policy', choices: policies, value: failover.policy });
  const hold = field({ label: 'Hold time (ms)', path: 'failover.hold', number: true, value: failover.hold ?? '', placeholder: '5000', hint: 'For the return to the first source' });
  const threshold = field({ label: 'Loss threshold (ms)', path: 'failover.loss_threshold', number: true, value: failover.loss_threshold ?? '' });
  const fields = [name, bandwidth, policy, change, hold, threshold];
  const summary = summaryOfErrors();
  const save = el('button', { type: 'submit', class: 'main' }, 'Save');
  const form = el('form', { class: 'card', novalidate: true, submit: async (event) => {
    event.preventDefault();
    const patch = {};
    if (name.value !== flow.name) patch.name = name.value;
    if (bandwidth.value !== given.max_bandwidth) patch.max_bandwidth = bandwidth.value;
    if (policy.value !== given.bandwidth_policy) patch.bandwidth_policy = policy.value;
    const rules = { policy: change.value, loss_threshold: threshold.value || null, hold: change.value === 'prefer' && hold.value ? hold.value : null };
    if (change.value !== failover.policy || threshold.value !== String(failover.loss_threshold ?? '') || hold.value !== String(failover.hold ?? '')) patch.failover = rules;
    save.disabled = true;
    try {
      const changed = await api('PATCH', flowPath(flow.name), patch);
      toast(changed.applied === 'restart' ? 'Changed; the flow was started anew.' : 'Changed; connections go on.');
      location.hash = `#/flow/${encodeURIComponent(changed.flow.name)}/settings`;
      if (changed.flow.name === flow.name) reload();
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      showProblem(error.problem, fields, summary);
    } finally {
      save.disabled = false;
    }
  } }, summary, el('div', { class: 'row' }, fields.map((part) => part.node)), operates() ? save : null);
  if (!operates()) for (const part of fields) part.input.disabled = true;
  return { node: form, update() {} };
}
