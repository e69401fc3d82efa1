// The page of the console. Everything that comes from the API is shown as text, never as markup.

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';

/** Creates an element. Attributes that are functions listen to events; `false` and `null` leave an attribute out. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Sets the text of an element, if it is another one: what stays is not announced again. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Keeps the children of an element in step with a list, by their keys, so that focus stays where it is. */
function keep(parent, items, key, create, update) {
  const known = parent.known ?? (parent.known = new Map());
  const present = new Set();
  items.forEach((item, at) => {
    const name = key(item);
    present.add(name);
    let part = known.get(name);
    if (!part) {
      part = create(item);
      known.set(name, part);
    }
    update(part, item);
    if (parent.children[at] !== part.node) parent.insertBefore(part.node, parent.children[at] ?? null);
  });
  for (const [name, part] of known) {
    if (!present.has(name)) {
      part.node.remove();
      known.delete(name);
    }
  }
}

// ---- Words and numbers

function rate(bits) {
  if (!bits) return '0 kb/s';
  if (bits < 1e6) return `${Math.round(bits / 1e3)} kb/s`;
  return `${(bits / 1e6).toFixed(bits < 1e7 ? 2 : 1)} Mb/s`;
}

function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const count = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`;
const time = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' });
const WORDS = { stopped: 'Stopped', failed: 'Failed', waiting: 'Waiting', connected: 'Connected', idle: 'Idle', disabled: 'Disabled' };

function badge(node, state) {
  node.className = `badge ${state}`;
  say(node, WORDS[state] ?? state);
}

function toast(text) {
  const line = el('p', {}, text);
  $('toast').append(line);
  setTimeout(() => line.remove(), 6000);
}

// ---- The API

class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

async function api(method, path, body) {
  const options = { method, headers: {}, credentials: 'same-origin', cache: 'no-store' };
  if (body !== undefined) {
    options.headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(`/api/v1${path}`, options);
  } catch {
    $('offline').hidden = false;
    throw new ProblemError({ detail: 'The console does not answer.', status: 0 });
  }
  $('offline').hidden = true;
  if (response.status === 204) return null;
  const type = response.headers.get('content-type') ?? '';
  const answer = type.includes('json') ? await response.json() : { detail: `status ${response.status}` };
  if (response.ok) return answer;
  if (response.status === 401 && path !== '/session') showLogin();
  throw new ProblemError({ status: response.status, ...answer });
}

const flowPath = (flow) => `/flows/${encodeURIComponent(flow)}`;
const endpointPath = (flow, direction, name) => `${flowPath(flow)}/${direction}s/${encodeURIComponent(name)}`;

/** Runs an action of a button: the button waits for it, and what fails is told. */
async function act(button, action) {
  button.disabled = true;
  try {
    await action();
    await view?.refresh?.();
  } catch (error) {
    toast(error.message);
  } finally {
    button.disabled = false;
  }
}

// ---- State

let role = null;
let needsPassword = false;
let catalogue = { scopes: new Map(), inputs: [], regions: [] };
let view = null;
let timer = null;
const operates = () => role === 'operator';

async function loadCatalogue() {
  const [settings, protocols, about] = await Promise.all([api('GET', '/settings'), api('GET', '/protocols'), api('GET', '/console')]);
  catalogue = {
    scopes: new Map(settings.scopes.map((scope) => [scope.name, scope])),
    inputs: protocols.inputs,
    regions: about.regions,
  };
}

// ---- Kinds of endpoints: how their addresses are asked for

const KINDS = {
  'RTMP source': { label: 'RTMP: encoders push to this machine', form: 'rtmpListen', port: 1935 },
  'RTMP_PULL source': { label: 'RTMP_PULL: play from a server', form: 'rtmpCall' },
  'SRT listener source': { label: 'SRT listener: encoders call this machine', form: 'listen', scheme: 'srt', port: 9000 },
  'SRT caller source': { label: 'SRT caller: call an encoder or gateway', form: 'call', scheme: 'srt' },
  'RTP source': { label: 'RTP: receive at a port or from a group', form: 'listen', scheme: 'rtp', port: 5004, roleless: true },
  'UDP source': { label: 'UDP: receive MPEG-TS at a port or from a group', form: 'listen', scheme: 'udp', port: 1234, roleless: true },
  'RIST source': { label: 'RIST: receive at an even port', form: 'listen', scheme: 'rist', port: 5000, roleless: true },
  'RTSP listener source': { label: 'RTSP: encoders record to this machine', form: 'rtspListen', port: 8554 },
  'RTSP caller source': { label: 'RTSP: play from a camera or server', form: 'rtspCall' },
  'RTMP output': { label: 'RTMP: relay to one or two servers', form: 'rtmpCall', relay: true },
  'RTMP_PUSH output': { label: 'RTMP_PUSH: publish to a platform', form: 'rtmpCall' },
  'RTMP_PULL output': { label: 'RTMP_PULL: players fetch from this machine', form: 'rtmpListen', port: 1935 },
  'SRT listener output': { label: 'SRT listener: players call this machine', form: 'listen', scheme: 'srt', port: 9001 },
  'SRT caller output': { label: 'SRT caller: send to a receiver', form: 'call', scheme: 'srt' },
  'RTP output': { label: 'RTP: send to an address or group', form: 'call', scheme: 'rtp', roleless: true },
  'UDP output': { label: 'UDP: send MPEG-TS to an address or group', form: 'call', scheme: 'udp', roleless: true },
  'RIST output': { label: 'RIST: send to a receiver', form: 'call', scheme: 'rist', roleless: true },
  'RTSP listener output': { label: 'RTSP: players fetch from this machine', form: 'rtspListen', port: 8554 },
  'RTSP caller output': { label: 'RTSP: record to a server', form: 'rtspCall' },
};
const kindOf = (scope) => KINDS[scope] ?? { label: scope, form: 'url' };
const protocolOf = (scope) => scope.replace(/ (listener |caller )?(source|output)$/, '');
const scopesOf = (direction) => [...catalogue.scopes.values()].filter((scope) => scope.direction === direction).map((scope) => scope.name);

const HOST = { name: 'host', label: 'Listen on address', hint: 'Empty: all addresses of this machine' };
const USER = [
  { name: 'user', label: 'User name', hint: 'Empty: no password is asked for' },
  { name: 'password', label: 'Password', secret: true },
];
const ADDRESS = {
  listen: [HOST, { name: 'port', label: 'Port', number: true, hint: '0: a free port' }],
  call: [{ name: 'host', label: 'Destination host', required: true }, { name: 'port', label: 'Port', number: true, required: true }],
  rtmpListen: [
    HOST,
    { name: 'port', label: 'Port', number: true },
    { name: 'app', label: 'Application', value: 'live' },
    { name: 'key', label: 'Stream key', secret: true, hint: 'Empty: a random key is generated' },
  ],
  rtmpCall: [
    { name: 'server', label: 'Server URL', required: true, hint: 'As in rtmp://live.example.com/app' },
    { name: 'key', label: 'Stream key', secret: true },
  ],
  rtspListen: [HOST, { name: 'port', label: 'Port', number: true }, { name: 'path', label: 'Path', value: 'live' }, ...USER],
  rtspCall: [{ name: 'server', label: 'URL', required: true, hint: 'As in rtsp://camera.example.com/stream' }, ...USER],
  url: [{ name: 'server', label: 'URL', required: true, hint: 'See the table of settings' }],
};

const bracket = (host) => (host.includes(':') && !host.startsWith('[') ? `[${host}]` : host);
const credentials = (v) => (v.user || v.password ? `${encodeURIComponent(v.user)}:${encodeURIComponent(v.password)}@` : '');

/** Returns the members of an endpoint that hold its address. */
function composed(scope, v) {
  const kind = kindOf(scope);
  const listening = (scheme) => `${scheme}://${bracket(v.host)}:${v.port || kind.port || ''}`;
  switch (kind.form) {
    case 'listen':
      return { url: listening(kind.scheme), ...(kind.roleless ? {} : { mode: 'listener' }) };
    case 'call':
      return { url: `${kind.scheme}://${bracket(v.host)}:${v.port}`, ...(kind.roleless ? {} : { mode: 'caller' }) };
    case 'rtmpListen':
      return { url: `${listening('rtmp')}/${v.app}`, mode: 'listener', ...(v.key ? { key: v.key } : {}) };
    case 'rtmpCall':
      return { url: v.server, mode: 'caller', ...(v.key ? { key: v.key } : {}), ...(kind.relay ? { relay: true } : {}) };
    case 'rtspListen': {
      const authority = `${credentials(v)}${bracket(v.host)}:${v.port || kind.port}`;
      return { url: `rtsp://${authority}/${v.path}`, mode: 'listener' };
    }
    case 'rtspCall':
      return { url: v.server.replace('://', `://${credentials(v)}`), mode: 'caller' };
    default:
      return { url: v.server };
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Returns the values of the fields of an address, from the configuration of an endpoint with its secrets. */
function parsed(scope, configuration) {
  const kind = kindOf(scope);
  const match = /^([a-z]+):\/\/(?:([^@/?]*)@)?(\[[^\]]*\]|[^:/?]*)(?::(\d+))?([^?]*)(.*)$/.exec(configuration.url) ?? [];
  const [, scheme = '', userinfo = '', host = '', port = '', path = '', query = ''] = match;
  const [user, ...password] = userinfo.split(':');
  const v = { host, port, user: decoded(user), password: decoded(password.join(':')), key: String(configuration.key ?? '') };
  if (['0.0.0.0', '[::]'].includes(host) && kind.form.toLowerCase().includes('listen')) v.host = host === '[::]' ? '::' : '';
  const plain = path.replace(/^\//, '');
  if (kind.form === 'rtmpListen') {
    const cut = v.key ? -1 : plain.lastIndexOf('/');
    v.app = decoded(cut < 0 ? plain : plain.slice(0, cut));
    if (cut >= 0) v.key = decoded(plain.slice(cut + 1));
  }
  v.path = decoded(plain);
  v.server = kind.form === 'url' ? configuration.url : `${scheme}://${host}${port ? `:${port}` : ''}${path}${query}`;
  if (kind.form === 'rtmpCall' && userinfo) v.server = configuration.url;
  return v;
}

// ---- Fields of forms

let ids = 0;

/** A field with its label, hint and error. `path` is that of its member in what is sent. */
function field({ label, path, hint, value = '', secret, number, choices, required, wide, placeholder }) {
  const id = `f${++ids}`;
  const input = choices
    ? el('select', { id }, choices.map(([text, word]) => el('option', { value: word, selected: String(value) === word }, text)))
    : el('input', { id, type: secret ? 'password' : 'text', inputmode: number ? 'numeric' : null, autocomplete: secret ? 'new-password' : 'off', spellcheck: 'false', required, placeholder });
  if (!choices) input.value = value;
  const error = el('div', { class: 'error', id: `${id}e`, hidden: true });
  const note = hint ? el('div', { class: 'hint', id: `${id}h` }, hint) : null;
  input.setAttribute('aria-describedby', `${id}e${hint ? ` ${id}h` : ''}`);
  let control = input;
  if (secret) {
    const show = el('button', { type: 'button', 'aria-pressed': 'false', 'aria-label': `Show: ${label}`, click: () => {
      const shown = input.type === 'password';
      input.type = shown ? 'text' : 'password';
      show.setAttribute('aria-pressed', String(shown));
      say(show, shown ? 'Hide' : 'Show');
    } }, 'Show');
    control = el('div', { class: 'together' }, input, show);
  }
  const node = el('div', { class: wide ? 'field wide' : 'field' }, el('label', { for: id }, label, required ? el('span', { 'aria-hidden': 'true' }, ' *') : null), control, note, error);
  return {
    node, input, path,
    get value() { return input.value.trim(); },
    fail(message) {
      say(error, message ?? '');
      error.hidden = !message;
      if (message) input.setAttribute('aria-invalid', 'true');
      else input.removeAttribute('aria-invalid');
    },
  };
}

/** Shows the errors of a problem at the fields that they are about, and the others above the form. */
function showProblem(problem, fields, summary) {
  for (const part of fields) part.fail(null);
  const rest = [];
  let first = null;
  for (const error of problem.errors ?? []) {
    const found = fields.find((part) => part.path === error.path)
      ?? fields.find((part) => part.address !== undefined && [part.address, `${part.address}.url`, `${part.address}.mode`].map((path) => path.replace(/^\./, '')).includes(error.path));
    if (found) {
      found.fail(error.message);
      const hidden = found.node.closest('details');
      if (hidden) hidden.open = true;
      first ??= found.input;
    } else {
      rest.push(error.path ? `${error.path}: ${error.message}` : error.message);
    }
  }
  const text = rest.length || !first ? (rest.join('; ') || problem.detail || problem.title) : '';
  say(summary, text);
  summary.hidden = !text;
  if (first) first.focus();
  else summary.focus();
}

const summaryOfErrors = () => el('div', { class: 'problem', role: 'alert', tabindex: '-1', hidden: true });

/** Settings that are asked for at first sight; all others are behind a fold. */
const USUAL = ['allow', 'max_players', 'latency', 'passphrase', 'pbkeylen', 'streamid', 'chunk_size', 'second', 'transport', 'pt', 'ttl'];
/** Settings that have fields of their own, or belong to the address. */
const APART = ['name', 'url', 'description', 'enabled', 'region', 'mode', 'relay', 'bind_key'];

function settingField(setting, prefix, value) {
  const unit = setting.unit && setting.unit !== 'peers' ? ` (${setting.unit})` : '';
  const label = { allow: 'Allowlist', max_players: 'Maximum number of peers', latency: 'Latency', passphrase: 'Passphrase', pbkeylen: 'Key length', streamid: 'Stream id', chunk_size: 'Chunk size', second: 'Second destination' }[setting.name] ?? setting.name;
  const usual = setting.default ? `usual: ${setting.default}` : 'usual';
  let choices = null;
  if (setting.type === 'boolean') choices = [[`(${usual})`, ''], ['true', 'true'], ['false', 'false']];
  if (setting.choices.length) choices = [[`(${usual})`, ''], ...setting.choices.map((word) => [word, word])];
  const hint = setting.name === 'allow' ? 'As in 203.3.3.3/28;198.51.100.7; empty: everyone' : `${setting.summary} ${choices ? '' : `${setting.range}${setting.unit ? ` ${setting.unit}` : ''}.`}`.trim();
  const part = field({ label: `${label}${unit}`, path: `${prefix}${setting.name}`, value: value ?? '', secret: setting.secret, number: setting.type === 'number', choices, hint, placeholder: choices ? null : setting.default });
  part.setting = setting;
  return part;
}

/** Fields of one endpoint of a kind. `given` is its configuration with its secrets, if there is one. */
function endpointFields(scope, prefix, given = {}) {
  const kind = kindOf(scope);
  const known = given.url ? parsed(scope, given) : {};
  const address = ADDRESS[kind.form].map((about) => {
    const value = known[about.name] ?? (given.url ? '' : about.value ?? (about.name === 'port' ? kind.port ?? '' : ''));
    const part = field({ ...about, path: about.name === 'key' ? `${prefix}key` : null, value });
    part.key = about.name;
    return part;
  });
  // Errors about the address as a whole are shown at the field that is most often wrong.
  const about = address.find((part) => part.key === 'server') ?? address.find((part) => part.key === 'port') ?? address[0];
  about.address = prefix.replace(/\.$/, '');
  const settings = (catalogue.scopes.get(scope)?.settings ?? []).filter((setting) => !APART.includes(setting.name) && !address.some((part) => part.key === setting.name));
  const parts = settings.map((setting) => settingField(setting, prefix, given[setting.name]));
  const usual = parts.filter((part) => USUAL.includes(part.setting.name));
  const more = parts.filter((part) => !USUAL.includes(part.setting.name));
  const node = el('div', {},
    el('div', { class: 'row' }, address.map((part) => part.node)),
    usual.length ? el('div', { class: 'row' }, usual.map((part) => part.node)) : null,
    more.length ? el('details', {}, el('summary', {}, `More settings (${more.length})`), el('div', { class: 'row' }, more.map((part) => part.node))) : null);
  return {
    node,
    fields: [...address, ...parts],
    read() {
      const values = Object.fromEntries(address.map((part) => [part.key, part.value]));
      const body = composed(scope, values);
      for (const part of parts) if (part.value !== '') body[part.setting.name] = part.value;
      return body;
    },
  };
}

/** Part of a form in which a kind of endpoint is chosen, and its fields follow the choice. */
function endpointChooser(scopes, prefix, given, scope) {
  const choices = scopes.map((name) => [kindOf(name).label, name]);
  const kind = field({ label: 'Protocol', path: null, choices, value: scope ?? scopes[0] });
  const place = el('div', {});
  let inner = null;
  const build = () => {
    inner = endpointFields(kind.input.value, prefix, kind.input.value === scope ? given : {});
    place.replaceChildren(inner.node);
  };
  kind.input.addEventListener('change', build);
  build();
  return {
    kind, place,
    get scope() { return kind.input.value; },
    get fields() { return [kind, ...inner.fields]; },
    read: () => inner.read(),
  };
}

// ---- Dialogs

function openDialog(title, content) {
  const heading = el('h2', { id: `f${++ids}` }, title);
  const dialog = el('dialog', { 'aria-labelledby': heading.id, close: () => dialog.remove() }, heading, content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks whether something is to be done that cannot be undone. */
function confirmed(title, text, verb) {
  return new Promise((resolve) => {
    let answer = false;
    const yes = el('button', { type: 'button', class: 'danger', click: () => { answer = true; dialog.close(); } }, verb);
    const no = el('button', { type: 'button', click: () => dialog.close() }, 'Cancel');
    const dialog = openDialog(title, el('div', {}, el('p', {}, text), el('div', { class: 'actions' }, no, yes)));
    dialog.addEventListener('close', () => resolve(answer));
    no.focus();
  });
}

/** Opens the form of a source or an output: a new one, or an existing one with its secrets. */
async function openEndpoint(flow, direction, existing) {
  let given = {};
  if (existing) {
    const secrets = await api('GET', `${flowPath(flow.name)}/secrets`);
    given = secrets.configuration[`${direction}s`].find((endpoint) => endpoint.name === existing.name) ?? {};
  }
  const allowed = (scope) => (direction === 'source' ? familyOf(protocolOf(scope)) === familyOf(protocolOf(flow.source_list[0].scope)) : flow.allowed_outputs.includes(protocolOf(scope)));
  let scopes = scopesOf(direction).filter(allowed);
  if (existing && !scopes.includes(existing.scope)) scopes = [existing.scope, ...scopes];
  const name = field({ label: `${direction === 'source' ? 'Source' : 'Output'} name`, path: 'name', required: true, value: given.name ?? '' });
  const description = field({ label: 'Description', path: 'description', value: given.description ?? '' });
  const chooser = endpointChooser(scopes, '', given, existing?.scope);
  const regions = [['(of this machine)', ''], ...catalogue.regions.map((region) => [region, region])];
  const region = direction === 'output' && catalogue.regions.length ? field({ label: 'Region', path: 'region', choices: regions, value: given.region ?? '' }) : null;
  const own = [name, description, region].filter(Boolean);
  const read = () => {
    const body = { name: name.value, ...chooser.read() };
    for (const part of own.slice(1)) if (part.value) body[part.path] = part.value;
    return body;
  };
  const before = existing ? read() : {};
  const summary = summaryOfErrors();
  const save = el('button', { type: 'submit', class: 'main' }, existing ? 'Save' : `Create ${direction}`);
  const form = el('form', { novalidate: true, submit: async (event) => {
    event.preventDefault();
    save.disabled = true;
    try {
      if (existing) {
        const body = read();
        const patch = Object.fromEntries(Object.entries(body).filter(([member, value]) => before[member] !== value));
        for (const member of Object.keys({ ...before, ...given })) if (!(member in body) && member !== 'enabled') patch[member] = null;
        if (chooser.scope === existing.scope && !('mode' in before)) delete patch.mode;
        if ('url' in patch && 'key' in before && !('key' in patch)) patch.key = before.key;
        const changed = await api('PATCH', endpointPath(flow.name, direction, existing.name), patch);
        toast(changed.applied === 'in_place' ? 'Changed; connections go on.' : `Changed; the ${direction} reconnects.`);
      } else {
        await api('POST', `${flowPath(flow.name)}/${direction}s`, read());
        toast(`${direction === 'source' ? 'Source' : 'Output'} ${name.value} created.`);
      }
      dialog.close();
      await view?.refresh?.();
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      showProblem(error.problem, [...own, ...chooser.fields], summary);
    } finally {
      save.disabled = false;
    }
  } },
    summary,
    el('div', { class: 'row' }, name.node, description.node, region?.node ?? null, chooser.kind.node),
    chooser.place,
    el('div', { class: 'actions' }, el('button', { type: 'button', click: () => dialog.close() }, 'Cancel'), save));
  const dialog = openDialog(existing ? `Edit ${direction} ${existing.name}` : `Create ${direction}`, form);
  name.input.focus();
}

/** Protocols of one family can stand in for one another; those that feed the same outputs are of one. */
function familyOf(protocol) {
  const input = catalogue.inputs.find((known) => known.protocol === protocol);
  return input ? input.allowed_outputs.join() : protocol;
}

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
  const id = `f${++ids}`;
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
    update(address) {
      node.hidden = !address;
      if (!address) return;
      if (!lines) {
        const whole = address.includes('…');
        const reveal = (member) => async () => (operates() ? (await secret())[member] ?? address : address);
        lines = { url: addressLine(direction === 'source' ? 'Input address' : 'Playback URL', reveal('url')) };
        node.append(lines.url.node);
        if (/^rtmps?:/.test(address) && operates()) {
          lines.server = addressLine('Server (for OBS)', reveal('server'));
          lines.key = addressLine('Stream key (for OBS)', reveal('key'));
          node.append(lines.server.node, lines.key.node);
        }
        if (whole && operates()) {
          const show = el('button', { type: 'button', class: 'quiet', click: () => act(show, async () => {
            const found = await secret();
            lines.shown = found;
            for (const member of ['url', 'server', 'key']) lines[member]?.set(found[member] ?? '');
            show.hidden = true;
          }) }, 'Show the stream key');
          node.append(show);
        }
      }
      if (lines.shown) return;
      lines.url.set(address);
      lines.server?.set(address.slice(0, address.lastIndexOf('/')));
      lines.key?.set('…');
    },
  };
}

// ---- Views

/** Shows a view: its node once, and its news from time to time. */
function show(title, node, refresh, period) {
  clearTimeout(timer);
  view?.leave?.();
  const mine = { refresh };
  view = mine;
  document.title = `${title} – StreamLink`;
  $('main').replaceChildren(node);
  for (const link of $('nav').querySelectorAll('a')) {
    const current = link.getAttribute('href') === (location.hash.startsWith('#/events') ? '#/events' : '#/');
    if (current) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const tick = async () => {
    if (view !== mine) return;
    try {
      if (!document.hidden) await refresh?.();
    } catch (error) {
      if (error.problem?.status === 404) {
        toast(error.message);
        location.hash = '#/';
        return;
      }
    }
    if (view === mine && period) timer = setTimeout(tick, period);
  };
  tick();
  return mine;
}

function showLogin() {
  role = null;
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
      const state = el('span', {});
      const reason = el('div', { class: 'reason small' });
      cells.State.append(state);
      const link = el('a', { class: 'name', href: `#/flow/${encodeURIComponent(flow.name)}/source` }, flow.name);
      cells.Flow.append(el('div', {}, link, reason));
      return { node: el('tr', {}, Object.values(cells)), cells, state, reason };
    }, (row, flow) => {
      badge(row.state, flow.state);
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
  const box = el('input', { type: 'checkbox', id: `f${++ids}`, change: () => build() });
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

// ---- Events

const BAD = ['source_lost', 'output_lost', 'missed'];
const WARN = ['source_retrying', 'output_retrying', 'peer_refused', 'bandwidth_exceeded', 'output_lagging', 'output_oversized', 'transport_error', 'senders_collide', 'timestamps_ahead', 'calls_own_address', 'switched'];

function eventLine(event, withFlow) {
  const level = BAD.includes(event.event) || event.text.startsWith('the flow cannot') ? 'bad' : WARN.includes(event.event) ? 'warn' : '';
  const by = event.by ? ` (${event.by})` : '';
  return el('li', { class: level }, el('span', { class: 'soft small number' }, time(event.at_ms)),
    el('span', { class: 'what' }, withFlow && event.flow ? el('a', { href: `#/flow/${encodeURIComponent(event.flow)}/events` }, event.flow) : null, withFlow && event.flow ? ': ' : '', event.text, by));
}

/** A list of the latest events that grows as they happen. */
function eventList(flow) {
  const list = el('ol', { class: 'events', 'aria-live': 'polite', 'aria-relevant': 'additions' });
  const none = el('p', { class: 'soft', hidden: true }, 'Nothing has happened yet.');
  let stream = null;
  const begin = async () => {
    const { events } = await api('GET', `${flow ? flowPath(flow) : ''}/events?limit=100`);
    list.replaceChildren(...events.map((event) => eventLine(event, !flow)));
    none.hidden = events.length > 0;
    const query = new URLSearchParams({ after: events[0]?.id ?? 0, ...(flow ? { flow } : {}) });
    stream = new EventSource(`/api/v1/events/stream?${query}`);
    stream.onmessage = ({ data }) => {
      list.prepend(eventLine(JSON.parse(data), !flow));
      none.hidden = true;
      while (list.children.length > 500) list.lastChild.remove();
    };
  };
  return { node: el('div', { class: 'card' }, list, none), begin, end: () => stream?.close() };
}

function showEvents() {
  const list = eventList(null);
  const mine = show('Events', el('div', {}, el('div', { class: 'head' }, el('h1', {}, 'Events')), list.node));
  mine.leave = list.end;
  list.begin().catch((error) => toast(error.message));
}

// ---- One flow

const TABS = [['source', 'Source'], ['output', 'Output'], ['events', 'Events'], ['statistics', 'Statistics'], ['settings', 'Settings']];

function facts(pairs) {
  const node = el('dl', { class: 'facts' });
  return {
    node,
    update(values) {
      keep(node, values.filter(([, value]) => value !== null && value !== undefined && value !== ''), ([label]) => label, ([label]) => {
        const value = el('dd', {});
        return { node: el('div', {}, el('dt', {}, label), value), value };
      }, (part, [, value]) => say(part.value, String(value)));
    },
  };
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
    ['Refused', stats.refused || null],
    ['Round trip', stats.round_trip_ms ? `${stats.round_trip_ms.toFixed(1)} ms` : null],
    ['Latency', stats.latency_ms ? `${stats.latency_ms} ms` : null],
    ['Video', stats.video_frame_rate ? `${stats.video_frame_rate.toFixed(1)} frames/s` : null],
    ['Encrypted', stats.encrypted ? 'yes' : null],
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
  const heading = el('h2', { id: `f${++ids}` }, name);
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
      where.update(news.address);
      const target = news.address ? [] : [['Address', news.configuration.url]];
      values.update([...target, ...endpointFacts(direction, stats), ['Region', news.configuration.region], ['Allowlist', news.configuration.allow]]);
      if (parts.toggle) say(parts.toggle, news.enabled ? 'Disable' : 'Enable');
      parts.toggle?.setAttribute('aria-label', `${news.enabled ? 'Disable' : 'Enable'} ${direction} ${name}`);
      if (parts.change) parts.change.hidden = list.length < 2 || Boolean(stats?.active) || !news.enabled;
      if (parts.remove) parts.remove.hidden = direction === 'source' && list.length < 2;
    },
  };
}

function endpointTab(current, direction) {
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

function statisticsTab(current) {
  const charts = el('div', { class: 'charts' });
  const body = el('tbody', {});
  const heads = ['Output', 'Peer', 'Connected for', 'Sent', 'Lost', 'Round trip', ''];
  const table = el('table', { class: 'cards' }, el('caption', { class: 'soft small' }, ''), el('thead', {}, el('tr', {}, heads.map((text) => (text ? el('th', { scope: 'col' }, text) : el('td', {}))))), body);
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

function settingsTab(flow) {
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
      if (changed.flow.name === flow.name) showFlow(flow.name, 'settings');
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
  const state = el('span', {});
  const reason = el('span', { class: 'reason' });
  const total = el('span', { class: 'soft number' });
  const buttons = el('div', { class: 'actions' });
  let toggle = null;
  if (operates()) {
    toggle = el('button', { type: 'button', click: () => act(toggle, () => api('PATCH', flowPath(name), { enabled: !flow.enabled })) });
    const remove = el('button', { type: 'button', class: 'danger', click: async () => {
      if (!await confirmed(`Delete flow ${name}?`, 'Its source and all its outputs are disconnected, and its keys are lost.', 'Delete')) return;
      act(remove, async () => {
        view.refresh = null;
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
    settings: () => settingsTab(flow),
  }[tab]();
  const node = el('div', {}, el('div', { class: 'head' }, el('h1', {}, name), state, total, reason, buttons), tabs, part.node);
  const mine = show(`${name}: ${tab}`, node, async () => {
    flow = await api('GET', flowPath(name));
    badge(state, flow.state);
    say(reason, flow.reason ?? '');
    reason.className = `reason ${flow.state}`;
    say(total, flow.state === 'connected' ? `${rate(flow.bit_rate)} in, ${rate(flow.output_bit_rate)} out` : '');
    if (toggle) say(toggle, flow.enabled ? 'Stop' : 'Start');
    await part.update(flow);
  }, 1000);
  if (events) {
    mine.leave = events.end;
    events.begin().catch((error) => toast(error.message));
  }
}

// ---- Ways

function showWho() {
  $('nav').hidden = !role;
  $('who').hidden = !role || !needsPassword;
  say($('role'), role === 'viewer' ? 'Viewer' : 'Operator');
}

let lastPlace = null;

function route() {
  if (!role) return;
  const [, place = '', name = '', tab = ''] = location.hash.split('/');
  for (const dialog of document.querySelectorAll('dialog')) dialog.close();
  const known = TABS.some(([key]) => key === tab) ? tab : 'source';
  const there = `${place}/${name}`;
  // Focus goes to the content of another place; a tab keeps it where it is.
  const moves = lastPlace !== null && lastPlace !== there;
  lastPlace = there;
  if (place === 'create' && operates()) showCreate();
  else if (place === 'events') showEvents();
  else if (place === 'flow' && name) showFlow(decoded(name), known).then(() => document.querySelector('.tabs a[aria-current]')?.focus());
  else showFlows();
  if (moves && place !== 'create' && place !== 'flow') $('main').focus();
}

async function begin() {
  const session = await api('GET', '/session');
  ({ role, needs_password: needsPassword } = session);
  showWho();
  if (!role) return showLogin();
  await loadCatalogue();
  route();
}

addEventListener('hashchange', route);
document.addEventListener('visibilitychange', () => { if (!document.hidden) view?.refresh?.()?.catch?.(() => {}); });
$('logout').addEventListener('click', async () => {
  await api('DELETE', '/session');
  showLogin();
});
begin().catch((error) => toast(error.message));
