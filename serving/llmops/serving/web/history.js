// The reader's conversations: an anonymous reader's stay in this browser, a person's are kept by the server.
import { kept } from "./api.js";

const KEY = "llmops.conversations";
const MOST = 100;

export function loadConversations() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.map(ended) : [];
  } catch {
    return [];
  }
}

// An answer that was being written when the page closed will not be finished.
function ended(conversation) {
  const messages = conversation.messages.map((m) => (m.status === "writing" ? { ...m, status: "stopped" } : m));
  return { ...conversation, messages };
}

/** Keep the newest; where the browser's space is used up, the oldest give way. Gives what is kept. */
export function saveConversations(conversations) {
  let newest = [...conversations].sort((a, b) => b.updated - a.updated).slice(0, MOST);
  for (;;) {
    try {
      localStorage.setItem(KEY, JSON.stringify(newest));
      return newest;
    } catch (error) {
      if (newest.length <= 1) return conversations;
      newest = newest.slice(0, Math.floor(newest.length * 0.8));
    }
  }
}

/** A page of the person's list: conversations whose messages are fetched when they are opened. */
export async function listKept(query = {}) {
  const { data, more } = await kept.list(query);
  return { more, list: data.map((c) => ({ id: c.id, title: c.title, updated: Date.parse(c.updated_at), shared: c.shared_at, messages: null })) };
}

export const messagesOf = (turns) => turns.flatMap((turn) => [
  { id: `${turn.id}-question`, role: "user", content: turn.question },
  {
    id: turn.id, role: "assistant", turn: turn.id, model: turn.model, info: turn.llmops, withheld: turn.withheld,
    content: turn.answer, citations: turn.citations, steps: turn.steps, error: turn.error,
    status: turn.status === "writing" ? "unfinished" : turn.status, feedback: turn.thumb ? { value: turn.thumb } : undefined,
  },
]);

/** Where words are found in this browser's conversations: in titles and questions, as on the server. */
export function search(conversations, words) {
  const wanted = words.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  return conversations.filter(({ title, messages }) => {
    const asked = (messages ?? []).filter((m) => m.role === "user").map((m) => m.content);
    const text = [title, ...asked].join("\n").toLocaleLowerCase();
    return wanted.every((word) => text.includes(word));
  });
}

/** Both lists in one, each conversation once; what is in `first` counts. */
export const merged = (first, second) => [...first, ...second.filter((c) => !first.some((d) => d.id === c.id))];

export function titleOf(question) {
  const line = question.trim().replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line;
}

export function groupByAge(conversations, now = Date.now()) {
  const day = 86_400_000;
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  const groups = [["Today", midnight], ["Last 7 days", midnight - 6 * day], ["Older", -Infinity]];
  const sorted = [...conversations].sort((a, b) => b.updated - a.updated);
  return groups
    .map(([name, from], i) => [name, sorted.filter((c) => c.updated >= from && (i === 0 || c.updated < groups[i - 1][1]))])
    .filter(([, list]) => list.length);
}
