// An OpenAI-compatible model that runs as its own process, so that it can stand in the namespace of its gateway:
//   node mock-model.mjs PORT LEDGER
// OpenClaw wraps a message in context blocks, and sends the whole conversation, so "the last user message" proves
// nothing. The test puts a marker in its message; the last marker among all user messages is the one being answered.
// What the model does is part of the marker, which keeps the mock free of state and tests free of races:
//   nonce-x1            answers at once
//   nonce-x1-slow2000   answers after 2000 ms
//   nonce-x1-chunks40   answers in several chunks, 40 ms apart (150 without a number)
//   nonce-x1-error      HTTP 400, which OpenClaw does not retry
//   nonce-x1-call ⟦…⟧   calls the tool named behind it, and answers with what the tool gave
// One JSON line per call goes to LEDGER *before* the answer: counting them is how a test knows no turn ran twice.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { markersIn, replyTo, toolCallIn } from "./markers.mjs";

const textOf = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("\n");

/** The tool to call; with its `result` once there is one. OpenClaw puts blocks of its own behind it, as the user's. */
function called(messages, users, marker) {
  const asked = messages.findLastIndex((message) => message.role === "user" && textOf(message.content).includes(marker));
  const given = messages.slice(asked).findLast((message) => message.role === "tool");
  return { ...toolCallIn(users, marker), result: given && `tool gave: ${textOf(given.content)}` };
}

async function answer(request, response, ledger) {
  let body = "";
  for await (const part of request.setEncoding("utf8")) body += part;
  if (request.method !== "POST" || !request.url.endsWith("/chat/completions")) {
    response.writeHead(200, { "content-type": "application/json" }).end('{"object":"list","data":[{"id":"echo","object":"model"}]}');
    return;
  }
  const call = JSON.parse(body);
  const users = call.messages.filter((message) => message.role === "user").map((message) => textOf(message.content));
  const marker = markersIn(users.join("\n").replace(/⟦.*?⟧/gs, "")).at(-1) ?? { text: "nonce-none" };
  const prompt = call.messages.map((message) => `${message.role}: ${textOf(message.content)}`).join("\n");
  appendFileSync(ledger, `${JSON.stringify({ marker: marker.text, at: Date.now(), prompt, tools: (call.tools ?? []).map((tool) => tool.function?.name) })}\n`);

  if (marker.mode === "error") {
    response.writeHead(400, { "content-type": "application/json" });
    response.end('{"error":{"message":"mock model refuses this prompt","type":"invalid_request_error"}}');
    return;
  }
  if (marker.mode === "slow") await pause(marker.ms);
  const tool = marker.mode === "call" && called(call.messages, users.join("\n"), marker.text);
  const words = (tool?.result ?? replyTo(marker.text)).split(/(?<= )/);
  const pieces = marker.mode === "chunks" ? words : [words.join("")];
  const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 };
  const base = { id: "mock-1", object: "chat.completion", created: Math.floor(Date.now() / 1000), model: call.model };
  if (!call.stream) {
    const message = { role: "assistant", content: words.join("") };
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ ...base, choices: [{ index: 0, message, finish_reason: "stop" }], usage }));
    return;
  }
  const chunk = (choice, more) =>
    response.write(`data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [{ index: 0, ...choice }], ...more })}\n\n`);
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  if (tool && tool.result === undefined) {
    const fn = { name: tool.name, arguments: JSON.stringify(tool.arguments) };
    chunk({ delta: { role: "assistant", tool_calls: [{ index: 0, id: `call-${Date.now()}`, type: "function", function: fn }] }, finish_reason: null });
    chunk({ delta: {}, finish_reason: "tool_calls" }, { usage });
    response.end("data: [DONE]\n\n");
    return;
  }
  for (const [index, piece] of pieces.entries()) {
    if (index > 0) await pause(marker.ms || 150);
    chunk({ delta: index === 0 ? { role: "assistant", content: piece } : { content: piece }, finish_reason: null });
  }
  chunk({ delta: {}, finish_reason: "stop" }, { usage });
  response.end("data: [DONE]\n\n");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [port, ledger] = process.argv.slice(2);
  createServer((request, response) => {
    answer(request, response, ledger).catch((error) => {
      process.stderr.write(`${error.stack}\n`);
      response.destroy();
    });
  }).listen(Number(port), "127.0.0.1", function () {
    process.stdout.write(`listening on ${this.address().port}\n`);
  });
}
