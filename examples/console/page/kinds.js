// Kinds of sources and outputs: which fields their addresses are made of.

import { state } from './kit.js';

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
  'RIST output': { label: 'RIST: send to an even port', form: 'call', scheme: 'rist', roleless: true },
  'RTSP listener output': { label: 'RTSP: players fetch from this machine', form: 'rtspListen', port: 8554 },
  'RTSP caller output': { label: 'RTSP: record to a server', form: 'rtspCall' },
};
export const kindOf = (scope) => KINDS[scope] ?? { label: scope, form: 'url' };
export const protocolOf = (scope) => scope.replace(/ (listener |caller )?(source|output)$/, '');
export const scopesOf = (direction) => [...state.catalogue.scopes.values()].filter((scope) => scope.direction === direction).map((scope) => scope.name);

const HOST = { name: 'host', label: 'Listen on address', hint: 'Empty: all addresses of this machine' };
const PORT = { name: 'port', label: 'Port', number: true, hint: '0: a free port' };
const USER = [
  { name: 'user', label: 'User name', hint: 'Empty: no password is asked for' },
  { name: 'password', label: 'Password', secret: true },
];
export const ADDRESS = {
  listen: [HOST, PORT],
  call: [{ name: 'host', label: 'Destination host', required: true }, { name: 'port', label: 'Port', number: true, required: true }],
  rtmpListen: [
    HOST,
    PORT,
    { name: 'app', label: 'Application', value: 'live' },
    { name: 'key', label: 'Stream key', secret: true, hint: 'Empty: a random key is generated' },
  ],
  rtmpCall: [
    { name: 'server', label: 'Server URL', required: true, hint: 'As in rtmp://live.example.com/app' },
    { name: 'key', label: 'Stream key', secret: true },
  ],
  rtspListen: [HOST, PORT, { name: 'path', label: 'Path', value: 'live' }, ...USER],
  rtspCall: [{ name: 'server', label: 'URL', required: true, hint: 'As in rtsp://camera.example.com/stream' }, ...USER],
  url: [{ name: 'server', label: 'URL', required: true, hint: 'See the table of settings' }],
};

const bracket = (host) => (host.includes(':') && !host.startsWith('[') ? `[${host}]` : host);
const credentials = (v) => (v.user || v.password ? `${encodeURIComponent(v.user)}:${encodeURIComponent(v.password)}@` : '');

/** Returns the members of an endpoint that hold its address. */
export function composed(scope, v) {
  const kind = kindOf(scope);
  const listening = (scheme) => `${scheme}://${bracket(v.host)}:${v.port || kind.port || ''}`;
  switch (kind.form) {
    case 'listen':
      return { url: listening(kind.scheme), ...(kind.roleless ? {} : { mode: 'listener' }) };
    case 'call':
      return { url: `${kind.scheme}://${bracket(v.host)}:${v.port}`, ...(kind.roleless ? {} : { mode: 'caller' }) };
    case 'rtmpListen':
      return { url: `${listening(v.scheme || 'rtmp')}/${v.app}`, mode: 'listener', ...(v.key ? { key: v.key } : {}) };
    case 'rtmpCall':
      return { url: v.server, mode: 'caller', ...(v.key ? { key: v.key } : {}), ...(kind.relay ? { relay: true } : {}) };
    case 'rtspListen': {
      const authority = `${credentials(v)}${bracket(v.host)}:${v.port || kind.port}`;
      return { url: `${v.scheme || 'rtsp'}://${authority}/${v.path}`, mode: 'listener' };
    }
    case 'rtspCall':
      return { url: v.server.replace('://', `://${credentials(v)}`), mode: 'caller' };
    default:
      return { url: v.server };
  }
}

export function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Returns the values of the fields of an address, from the configuration of an endpoint with its secrets. */
export function parsed(scope, configuration) {
  const kind = kindOf(scope);
  const match = /^([a-z]+):\/\/(?:([^@/?]*)@)?(\[[^\]]*\]|[^:/?]*)(?::(\d+))?([^?]*)(.*)$/.exec(configuration.url) ?? [];
  const [, scheme = '', userinfo = '', host = '', port = '', path = '', query = ''] = match;
  const [user, ...password] = userinfo.split(':');
  // The scheme tells whether there is TLS, for which listeners have no field.
  const v = { scheme, host, port, user: decoded(user), password: decoded(password.join(':')), key: String(configuration.key ?? '') };
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

/** Protocols of one family can stand in for one another; those that feed the same outputs are of one. */
export function familyOf(protocol) {
  const input = state.catalogue.inputs.find((known) => known.protocol === protocol);
  return input ? input.allowed_outputs.join() : protocol;
}
