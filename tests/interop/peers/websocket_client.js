'use strict';
// npm websocket as a client: carries out a list of actions one after the other, each when the answer to the one before is there;
// or, given a list of such lists, each over a connection of its own.
// Usage: node websocket_client.js URL ACTIONS OPTIONS  (JSON: subprotocols, origin, webSocketVersion, fragmentationThreshold, tlsOptions, ...)
const { client: WebSocketClient } = require('websocket');
const { report, describe, payload } = require('./common');
const [url, script, settings] = process.argv.slice(2);
const given = JSON.parse(script);
const scripts = Array.isArray(given[0]) ? given : [given];
const { subprotocols = [], origin, ...options } = JSON.parse(settings || '{}');

const client = new WebSocketClient({
  maxReceivedFrameSize: 64 << 20,
  maxReceivedMessageSize: 64 << 20,
  ...options,
});

client.on('connectFailed', (error) => report('refused', { message: error.toString() }));
client.on('connect', (connection) => {
  const actions = scripts.shift();
  function next() {
    const action = actions.shift();
    if (!action) return;
    if (action.do === 'close') connection.close(action.code, action.reason);
    else if (action.do === 'drop') connection.drop(action.code, action.reason, action.silently);
    else if (action.do === 'ping') connection.ping(action.text);
    else connection.send(payload(action));
  }
  report('open', { subprotocol: connection.protocol || '', version: String(connection.webSocketVersion) });
  connection.on('message', (message) => {
    const binary = message.type === 'binary';
    report('message', describe(binary ? message.binaryData : message.utf8Data, binary));
    next();
  });
  connection.on('frame', (frame) => { // instead of messages, with assembleFragments: false
    if (frame.opcode > 7) return;
    report('frame', { opcode: frame.opcode, fin: frame.fin, size: frame.length });
    if (frame.fin) next();
  });
  connection.on('pong', (data) => {
    report('pong', { text: data.toString() });
    next();
  });
  connection.on('ping', (cancel, data) => report('ping', { text: data.toString() }));
  connection.on('close', (code, reason) => {
    report('close', { code, reason: reason || '' });
    if (scripts.length) connect();
  });
  next();
});

function connect() {
  client.connect(url, subprotocols, origin);
}
connect();
