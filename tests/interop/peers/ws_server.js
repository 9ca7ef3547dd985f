'use strict';
// npm ws as a server: echoes; the texts "close CODE REASON", "ping PAYLOAD" and "fragments N" are commands.
// Usage: node ws_server.js OPTIONS  (JSON: perMessageDeflate, subprotocols)
const { WebSocketServer } = require('ws');
const { report, describe } = require('./common');
const { subprotocols = [], ...options } = JSON.parse(process.argv[2] || '{}');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  maxPayload: 64 << 20,
  handleProtocols: (offered) => subprotocols.find((name) => offered.has(name)) || false,
  ...options,
});

server.on('listening', () => report('listening', { port: server.address().port }));
server.on('connection', (socket, request) => {
  report('open', {
    subprotocol: socket.protocol,
    extensions: socket.extensions,
    version: request.headers['sec-websocket-version'],
    url: request.url,
  });
  socket.on('message', (data, binary) => {
    report('message', describe(data, binary));
    const [command, ...words] = binary ? [''] : data.toString().split(' ');
    if (command === 'close') socket.close(Number(words[0]), words.slice(1).join(' '));
    else if (command === 'ping') socket.ping(words[0]);
    else if (command === 'fragments') {
      const pieces = Number(words[0]);
      for (let i = 0; i < pieces; i++) socket.send(`piece ${i};`, { fin: i === pieces - 1 });
    } else socket.send(data, { binary });
  });
  socket.on('pong', (payload) => socket.send(`pong ${payload}`));
  socket.on('close', (code, reason) => report('close', { code, reason: reason.toString() }));
  socket.on('error', (error) => report('error', { message: error.message }));
});
