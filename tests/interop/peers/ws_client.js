'use strict';
// npm ws as a client: carries out a list of actions one after the other, each when the answer to the one before is there.
// Usage: node ws_client.js URL ACTIONS OPTIONS  (JSON: subprotocols, perMessageDeflate, protocolVersion, ca)
const WebSocket = require('ws');
const { report, describe, payload } = require('./common');
const [url, script, settings] = process.argv.slice(2);
const actions = JSON.parse(script);
const { subprotocols = [], ...options } = JSON.parse(settings || '{}');

const socket = new WebSocket(url, subprotocols, { maxPayload: 64 << 20, ...options });

function next() {
  const action = actions.shift();
  if (!action) return;
  if (action.do === 'close') socket.close(action.code, action.reason);
  else if (action.do === 'ping') socket.ping(action.text);
  else if (action.do === 'fragments') {
    action.pieces.forEach((piece, i) => socket.send(piece, { fin: i === action.pieces.length - 1 }));
  } else socket.send(payload(action));
}

socket.on('open', () => {
  report('open', { subprotocol: socket.protocol, extensions: socket.extensions });
  next();
});
socket.on('message', (data, binary) => {
  report('message', describe(data, binary));
  next();
});
socket.on('pong', (data) => {
  report('pong', { text: data.toString() });
  next();
});
socket.on('ping', (data) => report('ping', { text: data.toString() }));
socket.on('close', (code, reason) => report('close', { code, reason: reason.toString() }));
socket.on('unexpected-response', (request, response) => {
  report('refused', { status: response.statusCode });
  request.destroy();
});
socket.on('error', (error) => report('error', { message: error.message }));
