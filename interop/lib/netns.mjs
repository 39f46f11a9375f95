import { execFileSync, spawnSync } from "node:child_process";
import { onExit } from "./cleanup.mjs";

const ip = (...args) => execFileSync("ip", args, { stdio: ["ignore", "pipe", "pipe"], encoding: "utf8" });

/** False, or the reason why tests that need namespaces (or must not reach the outside) cannot run. For `{ skip }`. */
export const notIsolated = process.env.AGENT_MESH_ISOLATED === "1" ? false : "only inside interop/isolated (start it through interop/run)";

/** Each of the two hosts gets the other's address, as when pods roll and addresses are given out anew. */
export function swapAddresses(network, one, other) {
  const move = (verb, host, address) => ip("-n", network[host].name, "addr", verb, `${address}/24`, "dev", "eth0");
  const [first, second] = [network[one].address, network[other].address];
  move("del", one, first);
  move("del", other, second);
  move("add", one, second);
  move("add", other, first);
  [network[one].address, network[other].address] = [second, first];
  // Nobody may go on sending to the old place because it remembers who had the address.
  for (const { name } of Object.values(network).filter(({ name }) => name)) ip("-n", name, "neigh", "flush", "all");
}

/**
 * One namespace per host, all on one bridge in a namespace of its own. The test process stands on that network too (as
 * `test`), so that it can dial a gateway as a remote peer. Returns `{ alice: { name, address }, …, test: { address } }`.
 */
export function makeNetwork(...hosts) {
  // Two test files may run at once and both attach the one namespace of the suite, hence the subnet by pid.
  const subnet = `10.77.${process.pid % 256}`;
  const prefix = `am${process.pid}`;
  const add = (host) => {
    const name = `${prefix}-${host}`;
    ip("netns", "add", name);
    onExit(() => spawnSync("ip", ["netns", "del", name]));
    ip("-n", name, "link", "set", "lo", "up");
    return name;
  };
  const hub = add("hub");
  ip("-n", hub, "link", "add", "br0", "type", "bridge");
  ip("-n", hub, "link", "set", "br0", "up");

  const plug = (index, address, ns, device) => {
    const target = ns ? ["-n", ns] : [];
    ip("-n", hub, "link", "add", `v${index}`, "type", "veth", "peer", "name", device, "netns", ns ?? String(process.pid));
    ip("-n", hub, "link", "set", `v${index}`, "master", "br0", "up");
    ip(...target, "addr", "add", `${address}/24`, "dev", device);
    ip(...target, "link", "set", device, "up");
  };
  const network = { test: { address: `${subnet}.254` } };
  plug(hosts.length, network.test.address, null, `am${process.pid}`);
  hosts.forEach((host, index) => {
    network[host] = { name: add(host), address: `${subnet}.${index + 1}` };
    plug(index, network[host].address, network[host].name, "eth0");
  });
  return network;
}
