// The unmodified npm centrifuge client, driven by a test: events go to standard output and commands come from standard
// input, each a line of JSON. Arguments: the directory of the npm packages, the URL, an access token.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [directory, url, first] = process.argv.slice(2);
let token = first;
const require = createRequire(`${directory}/`);
const { Centrifuge } = require('centrifuge');
const WebSocket = require('ws');

const say = (event, rest) => process.stdout.write(`${JSON.stringify({ event, ...rest })}\n`);
const client = new Centrifuge(url, {
  token,
  getToken: async () => token,
  websocket: WebSocket,
  minReconnectDelay: 50,
  maxReconnectDelay: 500,
});

client.on('connecting', ({ code, reason }) => say('connecting', { code, reason }));
client.on('connected', ({ client, transport }) => say('connected', { client, transport }));
client.on('disconnected', ({ code, reason }) => say('disconnected', { code, reason }));
client.on('error', ({ error }) => say('error', { code: error.code, message: error.message }));
client.on('subscribed', ({ channel, recoverable, positioned, streamPosition, wasRecovering, recovered }) =>
  say('subscribed', { channel, recoverable, positioned, streamPosition, wasRecovering, recovered }));
client.on('unsubscribed', ({ channel }) => say('unsubscribed', { channel }));
client.on('publication', ({ channel, data, offset }) => say('publication', { channel, data, offset }));
client.connect();

createInterface({ input: process.stdin }).on('line', async (line) => {
  const command = JSON.parse(line);
  if (command.do === 'rpc') {
    try {
      const { data } = await client.rpc(command.method, command.data);
      say('rpc', { data });
    } catch ({ code, message }) {
      say('rpc', { error: { code, message } });
    }
  } else if (command.do === 'token') {
    token = command.token;
  } else if (command.do === 'disconnect') {
    client.disconnect();
  } else if (command.do === 'connect') {
    client.connect();
  }
});
