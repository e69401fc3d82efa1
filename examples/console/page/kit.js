// Parts of the page that know nothing of flows: elements, words, and the API. Everything that comes from the API is shown
// as text, never as markup.

export const $ = (id) => document.getElementById(id);
export const SVG = 'http://www.w3.org/2000/svg';

/** Creates an element. Attributes that are functions listen to events; `false` and `null` leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
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
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Keeps the children of an element in step with a list, by their keys, so that focus stays where it is. */
export function keep(parent, items, key, create, update) {
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

export function rate(bits) {
  if (!bits) return '0 kb/s';
  if (bits < 1e6) return `${Math.round(bits / 1e3)} kb/s`;
  return `${(bits / 1e6).toFixed(bits < 1e7 ? 2 : 1)} Mb/s`;
}

export function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export const count = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`;
export const time = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' });
const WORDS = { stopped: 'Stopped', failed: 'Failed', waiting: 'Waiting', connected: 'Connected', idle: 'Idle', disabled: 'Disabled' };

export function badge(node, state) {
  node.className = `badge ${state}`;
  say(node, WORDS[state] ?? state);
}

export function toast(text) {
  const line = el('p', {}, text);
  $('toast').append(line);
  setTimeout(() => line.remove(), 6000);
}

// ---- The API

export class ProblemError extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

export async function api(method, path, body) {
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
  if (response.status === 401 && path !== '/session') state.unauthorized();
  throw new ProblemError({ status: response.status, ...answer });
}

export const flowPath = (flow) => `/flows/${encodeURIComponent(flow)}`;
export const endpointPath = (flow, direction, name) => `${flowPath(flow)}/${direction}s/${encodeURIComponent(name)}`;

/** Runs an action of a button: the button waits for it, and what fails is told. */
export async function act(button, action) {
  button.disabled = true;
  try {
    await action();
    await state.view?.refresh?.();
  } catch (error) {
    toast(error.message);
  } finally {
    button.disabled = false;
  }
}

// ---- State

/** State that all parts of the page share. `view` is the one that is shown; `unauthorized` asks for the password. */
export const state = {
  role: null,
  needsPassword: false,
  catalogue: { scopes: new Map(), inputs: [], regions: [], remoteRegions: [] },
  view: null,
  unauthorized() {},
};

/** Returns whether who looks may change anything. */
export const operates = () => state.role === 'operator';

let ids = 0;

/** Returns an id that no other element has. */
export const newId = () => `f${++ids}`;

/** Reads what can be set: settings, protocols, regions. */
export async function loadCatalogue() {
  const [settings, protocols, about] = await Promise.all([api('GET', '/settings'), api('GET', '/protocols'), api('GET', '/console')]);
  state.catalogue = {
    scopes: new Map(settings.scopes.map((scope) => [scope.name, scope])),
    inputs: protocols.inputs,
    regions: about.regions,
    remoteRegions: about.remote_regions,
  };
}
