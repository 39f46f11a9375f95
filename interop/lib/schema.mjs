import { readFileSync } from "node:fs";
import path from "node:path";
import { Ajv } from "ajv";
import { interop } from "./places.mjs";

const document = JSON.parse(readFileSync(path.join(interop, "node_modules/@openclaw/gateway-protocol/protocol.schema.json"), "utf8"));

// strict:false only stops ajv from refusing the document's own extra keywords (`methods`, `x-openclaw-since`, a
// discriminator without `required`); nothing of what the schema demands is relaxed.
const ajv = new Ajv({ strict: false, allErrors: true });
ajv.addFormat("uuid", /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i);
ajv.addSchema(document, "openclaw");

const camel = (dotted) => dotted.replaceAll(/(?:^|[.-])(\w)/g, (_, letter) => letter.toUpperCase());
const defined = (name) => (name in document.definitions ? name : null);

/** Definitions whose name does not follow from the method's or event's. */
const PARAMS = { "agent.identity.get": "AgentIdentityParams" };
const RESULTS = { connect: "HelloOk", "agent.identity.get": "AgentIdentityResult" };
const EVENTS = { "device.pair.requested": "DevicePairRequestedEvent", "device.pair.resolved": "DevicePairResolvedEvent" };

const paramsOf = (method) => PARAMS[method] ?? defined(`${camel(method)}Params`);
const resultOf = (method) => RESULTS[method] ?? defined(`${camel(method)}Result`);
const eventOf = (event) => EVENTS[event] ?? defined(`${camel(event)}Event`);

function faults(definition, value) {
  const validate = ajv.getSchema(`openclaw#/definitions/${definition}`);
  if (validate(value)) return [];
  // The branches of an anyOf that do not fit are noise beside "matches none of them".
  const errors = validate.errors.filter(({ schemaPath }) => !/\/anyOf\/\d+\//.test(schemaPath));
  return errors.map((e) => `${definition}${e.instancePath}: ${e.message} ${JSON.stringify(e.params)}`);
}

function judgeFrame(frame, methodOf) {
  switch (frame.type) {
    case "req": {
      const definition = paramsOf(frame.method);
      return { definition, faults: [...faults("RequestFrame", frame), ...(definition ? faults(definition, frame.params ?? {}) : [])] };
    }
    case "res": {
      const method = methodOf.get(frame.id);
      if (method === undefined) return { definition: null, faults: [`an answer to no request: ${frame.id}`] };
      const definition = frame.ok ? resultOf(method) : "ErrorShape";
      const inner = frame.ok ? frame.payload : frame.error;
      return { definition, faults: [...faults("ResponseFrame", frame), ...(definition ? faults(definition, inner) : [])] };
    }
    case "event": {
      const definition = eventOf(frame.event);
      return { definition, faults: [...faults("EventFrame", frame), ...(definition ? faults(definition, frame.payload) : [])] };
    }
    default:
      return { definition: null, faults: [`a frame of type ${JSON.stringify(frame.type)}`] };
  }
}

/**
 * Judges captured frames `{connection?, from, frame}` and returns `{ faults, kinds, judged }`: each different fault in
 * words with the first frame it was found in, the faults alone, and the definitions that were applied beyond the
 * envelope, so that a test can demand that a frame it is about really was looked at.
 */
export function judge(captured) {
  const methods = new Map();
  const examples = new Map();
  const judged = new Set();
  for (const { connection, from, frame } of captured) {
    if (!methods.has(connection)) methods.set(connection, new Map());
    const methodOf = methods.get(connection);
    if (frame.type === "req") methodOf.set(frame.id, frame.method);
    const verdict = judgeFrame(frame, methodOf);
    if (verdict.definition) judged.add(verdict.definition);
    for (const fault of verdict.faults) examples.set(`${from}: ${fault}`, examples.get(`${from}: ${fault}`) ?? frame);
  }
  const faults = [...examples].map(([fault, frame]) => `${fault} in ${JSON.stringify(frame).slice(0, 400)}`);
  return { faults, kinds: [...examples.keys()], judged };
}
