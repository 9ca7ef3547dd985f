// npm ws client; the loops of common.py.
'use strict';
const { createRequire } = require('module');
const path = require('path');
const req = createRequire(path.join(process.env.NODE_HOME_DIR || process.cwd(), 'x.js'));
const { WebSocket } = req('ws');
const [url, mode] = [process.argv[2], process.argv[3]];
const [size, count] = [Number(process.argv[4]), Number(process.argv[5])];
let t0, c0;
const start = () => { t0 = process.hrtime.bigint(); c0 = process.cpuUsage(); };
const report = (n, bytes) => {
  const secs = Number(process.hrtime.bigint() - t0) / 1e9;
  const c = process.cpuUsage(c0);
  console.log(JSON.stringify({ secs, cpu: (c.user + c.system) / 1e6, n, bytes }));
};
const die = (m) => { console.error(m); process.exit(1); };
const open = (p) => new WebSocket(url + p, { perMessageDeflate: false, maxPayload: 1 << 28 });

if (mode === 'rtt' || mode === 'rttb') {
  const ws = open('/echo');
  const text = mode === 'rtt';
  const msgs = [];
  for (let i = 0; i < 7; i++) {
    const s = String.fromCharCode(97 + i).repeat(size);
    msgs.push(text ? s : Buffer.from(s));
  }
  const warm = Math.min(count, 100);
  let n = 0;
  ws.on('open', () => ws.send(msgs[0]));
  ws.on('message', (d) => {
    const m = msgs[n % 7];
    if (text ? d.toString() !== m : !d.equals(m)) die('echo differs');
    n++;
    if (n === warm) start();
    if (n === warm + count) { report(count, count * size); ws.close(1000); return; }
    ws.send(msgs[n % 7]);
  });
} else if (mode === 'push') {
  const ws = open('/sink');
  const data = Buffer.alloc(size, 'abcdefg');
  let i = 0;
  const pump = () => {
    while (i < count) {
      i++;
      if (ws.bufferedAmount > 1 << 20) { ws.send(data, pump); return; }
      ws.send(data);
    }
    ws.send('?');
  };
  ws.on('open', () => { start(); pump(); });
  ws.on('message', (d) => {
    if (d.toString() !== `${count} ${count * size}`) die('sink counted ' + d);
    report(count, count * size);
    ws.close(1000);
  });
} else if (mode === 'pull') {
  const ws = open(`/source?size=${size}&count=${count}`);
  let n = 0;
  ws.on('open', () => { start(); ws.send('go'); });
  ws.on('message', (d, bin) => {
    if (bin) { if (d.length !== size) die('length differs'); n++; return; }
    if (n !== count) die('source sent ' + n);
    report(count, count * size);
    ws.close(1000);
  });
} else {
  let n = -1;
  const next = () => {
    if (++n === 0) start();
    if (n === count) { report(count, 0); return; }
    const ws = open('/echo');
    ws.on('open', () => ws.close(1000));
    ws.on('close', next);
  };
  next();
}
