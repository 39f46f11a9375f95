// Whatever a test makes outside its own memory (processes, namespaces, folders) is registered here, because a failing
// or interrupted run must not leave a 700 MB gateway or a namespace behind. Undone in reverse order, at most once.
const undo = [];

export function onExit(action) {
  undo.push(action);
}

function runAll() {
  for (const action of undo.splice(0).reverse()) {
    try {
      action();
    } catch (error) {
      process.stderr.write(`cleanup: ${error.message}\n`);
    }
  }
}

process.on("exit", runAll);
for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]]) {
  // exit() runs the handler above; without a listener the process would die without it.
  process.on(signal, () => process.exit(code));
}
