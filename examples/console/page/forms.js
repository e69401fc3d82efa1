// Forms of sources and outputs, made from the table of settings, and their dialogs.

import { ProblemError, api, el, endpointPath, flowPath, newId, say, state, toast } from './kit.js';
import { ADDRESS, composed, familyOf, kindOf, parsed, protocolOf, scopesOf } from './kinds.js';

// ---- Fields of forms

/** A field with its label, hint and error. `path` is that of its member in what is sent. */
export function field({ label, path, hint, value = '', secret, number, choices, required, double, placeholder }) {
  const id = newId();
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
  const node = el('div', { class: double ? 'field double' : 'field' }, el('label', { for: id }, label, required ? el('span', { 'aria-hidden': 'true' }, ' *') : null), control, note, error);
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
export function showProblem(problem, fields, summary) {
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

export const summaryOfErrors = () => el('div', { class: 'problem', role: 'alert', tabindex: '-1', hidden: true });

/** Settings that are asked for at first sight; all others are behind a fold. */
const USUAL = ['allow', 'max_players', 'latency', 'passphrase', 'pbkeylen', 'streamid', 'chunk_size', 'second', 'transport', 'pt', 'ttl'];
/** Settings that have fields of their own, or belong to the address. */
const APART = ['name', 'url', 'description', 'enabled', 'region', 'mode', 'relay', 'bind_key'];

function settingField(setting, prefix, value) {
  const unit = setting.unit && setting.unit !== 'peers' ? ` (${setting.unit})` : '';
  const label = { allow: 'Allowlist', max_players: 'Maximum number of peers', latency: 'Latency', passphrase: 'Passphrase', pbkeylen: 'Key length', streamid: 'Stream id', chunk_size: 'Chunk size', second: 'Second destination', transport: 'Transport', pt: 'Payload types', ttl: 'TTL' }[setting.name] ?? setting.name;
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
  const settings = (state.catalogue.scopes.get(scope)?.settings ?? []).filter((setting) => !APART.includes(setting.name) && !address.some((part) => part.key === setting.name));
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
      const values = { scheme: known.scheme, ...Object.fromEntries(address.map((part) => [part.key, part.value])) };
      const body = composed(scope, values);
      for (const part of parts) if (part.value !== '') body[part.setting.name] = part.value;
      return body;
    },
  };
}

/** Part of a form in which a kind of endpoint is chosen, and its fields follow the choice. */
export function endpointChooser(scopes, prefix, given, scope) {
  const choices = scopes.map((name) => [kindOf(name).label, name]);
  const kind = field({ label: 'Protocol', path: null, choices, value: scope ?? scopes[0], double: true });
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
  const heading = el('h2', { id: newId() }, title);
  const dialog = el('dialog', { 'aria-labelledby': heading.id, close: () => dialog.remove() }, heading, content);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks whether something is to be done that cannot be undone. */
export function confirmed(title, text, verb) {
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
export async function openEndpoint(flow, direction, existing) {
  let given = {};
  if (existing) {
    const secrets = await api('GET', `${flowPath(flow.name)}/secrets`);
    given = secrets.configuration[`${direction}s`].find((endpoint) => endpoint.name === existing.name) ?? {};
  }
  const allowed = (scope) => (direction === 'source' ? familyOf(protocolOf(scope)) === familyOf(protocolOf(flow.source_list[0]?.scope ?? scope)) : flow.allowed_outputs.includes(protocolOf(scope)));
  let scopes = scopesOf(direction).filter(allowed);
  if (existing && !scopes.includes(existing.scope)) scopes = [existing.scope, ...scopes];
  const name = field({ label: `${direction === 'source' ? 'Source' : 'Output'} name`, path: 'name', required: true, value: given.name ?? '' });
  const description = field({ label: 'Description', path: 'description', value: given.description ?? '' });
  const chooser = endpointChooser(scopes, '', given, existing?.scope);
  const labelOf = (region) => (state.catalogue.remoteRegions.includes(region) ? `${region} (other machines)` : region);
  const regions = [['(of this machine)', ''], ...state.catalogue.regions.map((region) => [labelOf(region), region])];
  const region = direction === 'output' && state.catalogue.regions.length ? field({ label: 'Region', path: 'region', choices: regions, value: given.region ?? '' }) : null;
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
      await state.view?.refresh?.();
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
