// What the page asks of the server. A key, where one is needed, lives in this tab only.
const KEY = "llmops.key";

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message.charAt(0).toUpperCase() + error.message.slice(1)); // a sentence of its own on the page
    this.status = status;
    this.code = error.code;
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server does not answer. Is it still running?", code: "unreachable" });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ApiError(response.status, body.error ?? { message: `The server answered ${response.status}.`, code: "http" });
}

const post = (path, body, signal) => call(path, { method: "POST", body: JSON.stringify(body), signal });

/** The person's own conversations, which the server keeps. */
export const kept = {
  list: async (query) => (await call(`/v1/conversations?${new URLSearchParams(query)}`)).json(),
  read: async (id) => (await call(`/v1/conversations/${id}`)).json(),
  rename: (id, title) => call(`/v1/conversations/${id}`, { method: "PATCH", body: JSON.stringify({ title }) }),
  remove: (id) => call(`/v1/conversations/${id}`, { method: "DELETE" }),
  removeAll: () => call("/v1/conversations", { method: "DELETE" }),
  share: async (id) => (await post(`/v1/conversations/${id}/share`, {})).json(),
  unshare: (id) => call(`/v1/conversations/${id}/share`, { method: "DELETE" }),
  shared: async (word) => (await call(`/v1/shared/${encodeURIComponent(word)}`)).json(),
};

/** Sign out here, or in every browser; gives the address that goes on from there. */
export async function signOut(everywhere) {
  const response = await fetch(`/auth/sign-out${everywhere ? "?everywhere=1" : ""}`, { method: "POST", headers: { accept: "application/json" } });
  return response.ok ? (await response.json()).next : "/auth/sign-in";
}

export const signInAddress = () => `/auth/sign-in?${new URLSearchParams({ next: location.pathname + location.search })}`;

export const openSession = async () => (await post("/v1/session", {})).json();

export const sendFeedback = async (feedback) => (await post("/v1/feedback", feedback)).json();

export async function openPassage(model, citation) {
  const query = new URLSearchParams({ model, uri: citation.uri, start: citation.start, end: citation.end });
  if (citation.page != null) query.set("page", citation.page);
  query.set("text", citation.text.slice(0, 4000));
  return (await call(`/v1/passages?${query}`)).json();
}

/** Ask, and call `onChunk` with every chunk of the answer. Resolves at the end; rejects with ApiError or AbortError. */
export async function ask({ model, messages, sessionId, after }, onChunk, signal) {
  const body = { model, messages, stream: true, llmops: { session_id: sessionId, after } };
  const response = await post("/v1/chat/completions", body, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(200, chunk.error);
    onChunk(chunk);
  }
  throw new ApiError(200, { message: "The answer was cut off on its way here.", code: "cut" });
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) return;
    const pieces = (rest + value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) if (piece.startsWith("data: ")) yield piece.slice(6);
  }
}

/** A UUIDv7; crypto.randomUUID is missing where the page comes over plain http from another machine. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  let time = Date.now();
  for (let i = 5; i >= 0; i--, time = Math.floor(time / 256)) bytes[i] = time % 256;
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
