// The reader's conversations. They stay in this browser; the server keeps its own log.
const KEY = "llmops.conversations";
const MOST = 100;

export function loadConversations() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.map(ended) : [];
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
  let kept = [...conversations].sort((a, b) => b.updated - a.updated).slice(0, MOST);
  for (;;) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      return kept;
    } catch (error) {
      if (kept.length <= 1) return conversations;
      kept = kept.slice(0, Math.floor(kept.length * 0.8));
    }
  }
}

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
