// Says who is master: the Node program of 2016, beside a leaderexec that only elects.
//
//   leaderexec --election=example --http=localhost:4040
//   node examples/master.mjs
//
// Plain Node, 18 or newer. The variables ELECTOR_GET_URL, INTERVAL_MS and PORT change where and
// how often it asks, and where it serves.
//
// What it says was true when it asked. That is good enough to show, or to choose who does what
// may be done twice. What must not run twice is for leaderexec's child, which is dead in time.

import { setDefaultResultOrder } from 'node:dns';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const ELECTOR = process.env.ELECTOR_GET_URL || 'http://localhost:4040/';
const INTERVAL_MS = Number(process.env.INTERVAL_MS || 5000);
const PORT = Number(process.env.PORT || 8080);

const NOBODY = { name: '', until: 0 };
let master = NOBODY;

async function ask() {
  const askedAt = performance.now();
  try {
    const answer = await fetch(ELECTOR, { signal: AbortSignal.timeout(INTERVAL_MS) });
    const { name } = await answer.json();
    // Until the next answer is overdue, counted from before the question.
    master = { name, until: askedAt + 2 * INTERVAL_MS };
  } catch (error) {
    master = NOBODY; // whoever cannot be asked may not lead any more
    console.error(`cannot ask ${ELECTOR}: ${error.cause?.code ?? error.message}`);
  }
}

const server = createServer((_request, response) => {
  // Looked at now: had this process stood still, what it knows would be of yesterday.
  const name = performance.now() < master.until ? master.name : '';
  response.writeHead(name ? 200 : 503, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Cache-Control': 'no-store',
  });
  response.end(name ? `Master is ${name}\n` : 'Master is unknown\n');
});

// Node 18 tries only one address of localhost, which need not be the one that is listened on.
setDefaultResultOrder('ipv4first');
server.listen(PORT, () => console.log(`serving on port ${server.address().port}`));

// The first process of a container ignores a request to stop unless it handles it.
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => process.exit(0));
}

for (;;) {
  await Promise.all([ask(), sleep(INTERVAL_MS)]);
}
