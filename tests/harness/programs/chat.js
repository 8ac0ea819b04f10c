// A workload: a WebSocket server (RFC 6455) on node's own http module, with timers and a worker thread.
// usage: node chat.js PORT. Each text frame is answered by "<frames of this connection> <ticks> <worker's ticks> <text>".
const http = require('http');
const crypto = require('crypto');
const { Worker } = require('worker_threads');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
let ticks = 0;
let worked = 0;
setInterval(() => { ticks += 1; }, 3);
const worker = new Worker('const {parentPort} = require("worker_threads"); setInterval(() => parentPort.postMessage(1), 3);', { eval: true });
worker.on('message', () => { worked += 1; });

const server = http.createServer((request, response) => response.end('no websocket\n'));
server.on('upgrade', (request, socket) => {
  const accept = crypto.createHash('sha1').update(request.headers['sec-websocket-key'] + GUID).digest('base64');
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
  let rest = Buffer.alloc(0);
  let frames = 0;
  socket.on('error', () => socket.destroy());
  socket.on('data', (data) => {
    rest = Buffer.concat([rest, data]);
    while (rest.length >= 6 && rest.length >= 6 + (rest[1] & 127)) {
      const length = rest[1] & 127; // the client's frames are short, and masked
      const text = Buffer.from(rest.subarray(6, 6 + length).map((byte, at) => byte ^ rest[2 + (at % 4)]));
      rest = rest.subarray(6 + length);
      frames += 1;
      const answer = Buffer.from(`${frames} ${ticks} ${worked} ${text}`);
      socket.write(Buffer.concat([Buffer.from([0x81, answer.length]), answer]));
    }
  });
});
server.listen(Number(process.argv[2]), '0.0.0.0');
