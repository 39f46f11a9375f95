import { GatewayClient } from "@openclaw/gateway-client";
import { publicKeyText, signPayload } from "./wire.mjs";

/**
 * The reference client, connected. Rejects with its own connect error; it is stopped then, because it would go on
 * reconnecting, and a test that counts connection attempts counts what the *server* makes it do.
 */
export async function connectReference(url, { device, onEvent, ...options } = {}) {
  const connected = Promise.withResolvers();
  const issued = { token: null };
  const client = new GatewayClient({
    url,
    minProtocol: 4,
    maxProtocol: 4,
    role: "operator",
    scopes: ["operator.read", "operator.write"],
    deviceIdentity: device ?? null,
    hostDeps: {
      signDevicePayload: signPayload,
      publicKeyRawBase64UrlFromPem: publicKeyText,
      storeDeviceAuthToken: ({ token }) => (issued.token = token),
    },
    onHelloOk: connected.resolve,
    onConnectError: connected.reject,
    onEvent: (event) => onEvent?.(event),
    ...options,
  });
  client.start();
  try {
    const hello = await connected.promise;
    return { client, hello, issued, request: client.request.bind(client), stop: () => client.stopAndWait() };
  } catch (error) {
    await client.stopAndWait();
    throw error;
  }
}
