'use strict';
// npm websocket as a server: echoes; the texts "close CODE REASON", "drop CODE REASON" and "ping PAYLOAD" are commands.
// Usage: node websocket_server.js OPTIONS  (JSON: subprotocols, tls: {key, cert}, fragmentationThreshold, ...)
const http = require('http');
const https = require('https');
const { server: WebSocketServer } = require('websocket');
const { report, describe } = require('./common');
const { subprotocols = [], tls, ...options } = JSON.parse(process.argv[2] || '{}');

const refuse = (request, response) => {
  response.writeHead(404);
  response.end();
};
const listener = tls ? https.createServer(tls, refuse) : http.createServer(refuse);
const server = new WebSocketServer({
  httpServer: listener,
  maxReceivedFrameSize: 64 << 20,
  maxReceivedMessageSize: 64 << 20,
  ...options,
});

server.on('request', (request) => {
  // It gives the offered names in lower case.
  const chosen = subprotocols.find((name) => request.requestedProtocols.includes(name.toLowerCase()));
  const connection = request.accept(chosen || null, request.origin);
  report('open', {
    subprotocol: connection.protocol || '',
    version: String(request.webSocketVersion),
    origin: request.origin || null,
    url: request.resource,
  });
  connection.on('message', (message) => {
    const binary = message.type === 'binary';
    const data = binary ? message.binaryData : message.utf8Data;
    report('message', describe(data, binary));
    const [command, ...words] = binary ? [''] : data.split(' ');
    if (command === 'close') connection.close(Number(words[0]), words.slice(1).join(' '));
    else if (command === 'drop') connection.drop(Number(words[0]), words.slice(1).join(' '));
    else if (command === 'ping') connection.ping(words[0]);
    else connection.send(data);
  });
  connection.on('frame', (frame) => { // instead of messages, with assembleFragments: false
    if (frame.opcode > 7) return;
    report('frame', { opcode: frame.opcode, fin: frame.fin, size: frame.length });
    if (frame.fin) connection.sendUTF('whole');
  });
  connection.on('pong', (payload) => connection.sendUTF(`pong ${payload}`));
  connection.on('close', (code, reason) => report('close', { code, reason: reason || '' }));
});
listener.listen(0, '127.0.0.1', () => report('listening', { port: listener.address().port }));
