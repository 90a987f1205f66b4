// A child in Node: an HTTP server of several processes, as test_kinds_of_children.py has it.
//
//   node node_child.mjs GATE CODE STUBBORN
//
// The primary has two workers, which share its port. Asked to stop it has them answer what was begun
// and end, and exits with CODE. A request for /slow is answered when the file GATE exists. With
// STUBBORN 1 nothing but SIGKILL ends any of them. They say on standard output where they listen,
// that a slow request was begun, and that they drain.
import cluster from "node:cluster";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import process from "node:process";

const WORKERS = 2;
const [gate, code, stubborn] = process.argv.slice(2);

function lead() {
  let listening = 0;
  let ended = 0;
  cluster.on("listening", (_worker, address) => {
    listening += 1;
    if (listening === WORKERS) console.log(`port ${address.port}`);
  });
  process.on("SIGTERM", () => {
    if (stubborn === "1") return;
    console.log("draining");
    cluster.disconnect();
  });
  // A worker that is disconnected may still be answering: only its end says that it has.
  cluster.on("exit", () => {
    ended += 1;
    if (ended === WORKERS) process.exit(Number(code));
  });
  for (let worker = 0; worker < WORKERS; worker += 1) cluster.fork();
}

function answer(request, response) {
  response.setHeader("Connection", "close");
  if (request.url !== "/slow") {
    response.end("answered");
    return;
  }
  console.log("begun");
  const timer = setInterval(() => {
    if (!fs.existsSync(gate)) return;
    clearInterval(timer);
    response.end("answered");
  }, 10);
}

function work() {
  if (stubborn === "1") process.on("SIGTERM", () => {});
  const witness = net.connect(process.env.WITNESS_SOCKET, () => {
    const who = {
      candidate: process.env.WITNESS_CANDIDATE,
      run: process.env.LEADER_FENCING_TOKEN,
      main: process.ppid,
      role: "worker",
    };
    witness.write(`${JSON.stringify(who)}\n`);
    http.createServer(answer).listen(0, "127.0.0.1");
  });
  witness.on("close", () => process.exit(97)); // it ends with the test, whatever became of it
  witness.unref();
}

if (cluster.isPrimary) lead();
else work();
