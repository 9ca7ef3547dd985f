'use strict';
// What the four programs share: they report what happens as one JSON object a line.
const crypto = require('crypto');

exports.report = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');

// A message as the tests want to see it: short text itself, the rest by size and hash.
exports.describe = (data, binary) => {
  const bytes = Buffer.from(data);
  const sha1 = crypto.createHash('sha1').update(bytes).digest('hex');
  return { binary, size: bytes.length, sha1, text: !binary && bytes.length < 200 ? bytes.toString() : null };
};

// The bytes that an action asks to send: {text}, {hex}, or {size} (so many bytes, repeating 0..250).
exports.payload = (action) => {
  if (action.text !== undefined) return action.text;
  if (action.hex !== undefined) return Buffer.from(action.hex, 'hex');
  return Buffer.alloc(action.size, Uint8Array.from({ length: 251 }, (_, i) => i));
};
