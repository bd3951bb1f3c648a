// What a reader had written when their sign-in ended: kept in this tab while they sign in again, and given back once.
const DRAFT = "llmops.draft";

export function keepDraft(person, text) {
  if (person && text.trim()) sessionStorage.setItem(DRAFT, JSON.stringify({ id: person.id, text }));
}

/** The kept text; it is gone then, and whoever else signed in meanwhile does not get to see it. */
export function takeDraft(person) {
  const kept = JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
  sessionStorage.removeItem(DRAFT);
  return kept && kept.id === person?.id ? kept.text : "";
}
