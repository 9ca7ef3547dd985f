'use strict';
// npm websocket as a client: carries out a list of actions one after the other, each when the answer to the one before is there.
// Usage: node websocket_client.js URL ACTIONS OPTIONS  (JSON: subprotocols, origin, webSocketVersion, fragmentationThreshold, ...)
const { client: WebSocketClient } = require('websocket');
const { report, describe, payload } = require('./common');
const [url, script, settings] = process.argv.slice(2);
const actions = JSON.parse(script);
const { subprotocols = [], origin, ...options } = JSON.parse(settings || '{}');

const client = new WebSocketClient({
  maxReceivedFrameSize: 64 << 20,
  maxReceivedMessageSize: 64 << 20,
  ...options,
});

client.on('connectFailed', (error) => report('refused', { message: error.toString() }));
client.on('connect', (connection) => {
  function next() {
    const action = actions.shift();
    if (!action) return;
    if (action.do === 'close') connection.close(action.code, action.reason);
    else if (action.do === 'ping') connection.ping(action.text);
    else connection.send(payload(action));
  }
  report('open', { subprotocol: connection.protocol || '', version: String(connection.webSocketVersion) });
  connection.on('message', (message) => {
    const binary = message.type === 'binary';
    report('message', describe(binary ? message.binaryData : message.utf8Data, binary));
    next();
  });
  connection.on('pong', (data) => {
    report('pong', { text: data.toString() });
    next();
  });
  connection.on('ping', (cancel, data) => report('ping', { text: data.toString() }));
  connection.on('close', (code, reason) => report('close', { code, reason: reason || '' }));
  next();
});
client.connect(url, subprotocols, origin);
