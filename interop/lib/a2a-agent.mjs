import express from "express";
import { Role, TaskState } from "@a2a-js/sdk";
import { AgentEvent, DefaultRequestHandler, InMemoryTaskStore } from "@a2a-js/sdk/server";
import { agentCardHandler, jsonRpcHandler, UserBuilder } from "@a2a-js/sdk/server/express";

const textPart = (text) => ({ content: { $case: "text", value: text }, metadata: undefined, filename: "", mediaType: "" });

function card(url, streaming) {
  return {
    name: "Judge",
    description: "Answers with what it was asked.",
    version: "1.0.0",
    supportedInterfaces: [{ url, protocolBinding: "JSONRPC", protocolVersion: "1.0", tenant: "" }],
    provider: undefined,
    capabilities: { streaming, pushNotifications: false, extensions: [], extendedAgentCard: false },
    securitySchemes: {},
    securityRequirements: [],
    defaultInputModes: ["text/plain"],
    defaultOutputModes: ["text/plain"],
    skills: [{ id: "echo", name: "Echo", description: "Echoes", tags: [], examples: [], inputModes: [], outputModes: [], securityRequirements: [] }],
    signatures: [],
  };
}

/** Breaks the connection behind the second event. */
function cutAfterTwo(response) {
  const write = response.write.bind(response);
  let events = 0;
  response.write = (chunk, ...rest) => {
    if (!String(chunk).startsWith("data:")) return write(chunk, ...rest);
    if (++events > 2) return response.destroy();
    return write(chunk, ...rest);
  };
}

/**
 * An agent on the server of the official SDK. What it does stands in the message: `slow` works for two seconds, `fail`
 * fails, `ask` asks back, `direct` answers without a task, `pieces` brings its answer word by word, and `cut` ends each
 * stream after two events, while the work goes on. `asked` is what it heard, with the context of each; `methods` what was
 * called.
 */
export async function startA2aAgent({ token, streaming = false }) {
  const [asked, methods] = [[], []];
  const execute = async ({ userMessage, taskId, contextId }, bus) => {
    const text = userMessage.parts.map((part) => part.content.value).join("");
    asked.push({ text, contextId, messageId: userMessage.messageId });
    const said = (words) => ({ messageId: `m-${taskId}`, contextId, taskId, role: Role.ROLE_AGENT, parts: [textPart(words)], metadata: undefined, extensions: [], referenceTaskIds: [] });
    if (text.includes("direct")) {
      bus.publish(AgentEvent.message(said("a direct answer")));
      return bus.finished();
    }
    const status = (state, words) => ({ state, message: words && said(words), timestamp: new Date().toISOString() });
    const update = (state, words) => bus.publish(AgentEvent.statusUpdate({ taskId, contextId, status: status(state, words), metadata: undefined }));
    bus.publish(AgentEvent.task({ id: taskId, contextId, status: status(TaskState.TASK_STATE_WORKING), artifacts: [], history: [], metadata: undefined }));
    const bring = (words, append, lastChunk) => {
      const artifact = { artifactId: "a-1", name: "", description: "", parts: [textPart(words)], metadata: undefined, extensions: [] };
      bus.publish(AgentEvent.artifactUpdate({ taskId, contextId, artifact, append, lastChunk, metadata: undefined }));
    };
    if (text.includes("pieces")) {
      const pieces = ["one ", "two ", "three"];
      for (const [n, piece] of pieces.entries()) {
        bring(piece, n > 0, n === pieces.length - 1);
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
      update(TaskState.TASK_STATE_COMPLETED);
      return bus.finished();
    }
    if (text.includes("slow")) await new Promise((resolve) => setTimeout(resolve, 2000));
    if (text.includes("fail")) update(TaskState.TASK_STATE_FAILED, "no quota");
    else if (text.includes("ask")) update(TaskState.TASK_STATE_INPUT_REQUIRED, "which one?");
    else {
      bring(`heard: ${text.split("\n").at(-1)}`, false, true);
      update(TaskState.TASK_STATE_COMPLETED);
    }
    bus.finished();
  };
  const app = express();
  const server = await new Promise((resolve) => {
    const listening = app.listen(0, "127.0.0.1", () => resolve(listening));
  });
  const url = `http://127.0.0.1:${server.address().port}/a2a`;
  const requestHandler = new DefaultRequestHandler(card(url, streaming), new InMemoryTaskStore(), { execute, cancelTask: async () => {} });
  app.use("/.well-known/agent-card.json", agentCardHandler({ agentCardProvider: requestHandler }));
  app.use("/a2a", (request, response, next) =>
    request.headers.authorization === `Bearer ${token}` ? next() : response.status(401).end(),
  );
  app.use("/a2a", express.json(), (request, response, next) => {
    methods.push(request.body.method);
    if (JSON.stringify(request.body).includes("cut")) cutAfterTwo(response);
    next();
  });
  app.use("/a2a", jsonRpcHandler({ requestHandler, userBuilder: UserBuilder.noAuthentication }));
  return { url, asked, methods, stop: () => new Promise((resolve) => server.close(resolve).closeAllConnections()) };
}
