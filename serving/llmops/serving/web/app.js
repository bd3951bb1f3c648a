// The chat: which conversation is open, which answer is being written, and what the reader's clicks do.
import { ApiError, ask, kept, newId, openPassage, openSession, signInAddress, signOut } from "./api.js";
import { Composer } from "./composer.js";
import { Component, createRef, html, render } from "./dom.js";
import { keepDraft, takeDraft } from "./draft.js";
import { listKept, loadConversations, merged, messagesOf, saveConversations, search, titleOf } from "./history.js";
import { icons } from "./icons.js";
import { KeyDialog } from "./keydialog.js";
import { PassagePanel } from "./passage.js";
import { ShareButton } from "./share.js";
import { Sidebar, ThemeButton } from "./sidebar.js";
import { SignedOutDialog } from "./signedout.js";
import { Thread } from "./thread.js";

const NARROW = matchMedia("(max-width: 760px)");

class App extends Component {
  state = {
    server: null, // what /v1/session said
    keyNeeded: null, // null, or why the last key was refused ("" where none was given)
    trouble: "",
    signedOut: false,
    conversations: [],
    found: null, // what the last search found
    more: false, // whether the server keeps older ones
    shared: null, // somebody else's conversation, opened by a link
    currentId: null,
    model: null,
    busy: false,
    panel: null,
    drawer: false,
    narrow: NARROW.matches,
    said: "",
  };
  composer = createRef();
  thread = createRef();
  menu = createRef();
  abort = null;
  keyTried = Boolean(sessionStorage.getItem("llmops.key"));

  componentDidMount() {
    NARROW.addEventListener("change", () => this.setState({ narrow: NARROW.matches, drawer: false }));
    addEventListener("keydown", this.onKey);
    addEventListener("pagehide", () => this.save(this.state.conversations));
    this.connected = this.connect();
  }

  connect = async () => {
    try {
      const server = await openSession();
      const model = server.endpoints[0].name;
      const draft = takeDraft(server.person);
      this.setState({ server, model, keyNeeded: null, trouble: "" }, () => {
        if (draft) this.composer.current?.fill(draft);
        this.composer.current?.focus();
      });
      await this.loadHistory(server);
      return model;
    } catch (error) {
      if (error.code === "sign_in_needed" && !this.state.server) location.replace(signInAddress());
      else this.fail(error);
    }
  };

  async loadHistory(server) {
    const { list, more } = server.person ? await listKept() : { list: loadConversations(), more: false };
    this.setState(({ conversations }) => ({ conversations: merged(conversations, list), more }));
    const word = new URLSearchParams(location.search).get("shared");
    if (!word || !server.person) return;
    const { title, turns } = await kept.shared(word);
    const messages = messagesOf(turns).map((m) => ({ ...m, info: null })); // only who asked may judge
    this.setState({ shared: { id: word, title, messages } });
  }

  /** An anonymous reader's conversations go into the browser; a person's are with the server already. */
  save(conversations) {
    return !this.state.server || this.state.server.person ? conversations : saveConversations(conversations);
  }

  /** Do something that the server may refuse; what it says is shown. */
  async attempt(work) {
    try {
      await work();
    } catch (error) {
      this.fail(error);
    }
  }

  onKey = (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    if (this.state.panel) this.closePanel();
    else if (this.state.drawer) this.toggleDrawer();
  };

  /** Show an error that belongs to no answer; a missing or refused key opens the dialog. */
  fail(error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code === "sign_in_needed") {
      this.setState({ signedOut: true });
    } else if (error.status === 401) {
      this.setState({ keyNeeded: this.keyTried ? error.message : "" });
      this.keyTried = true;
    } else {
      this.setState({ trouble: error.message });
    }
  }

  /** On the way to signing in again: what stands in the box, else the question that was not heard. */
  keepDraft = () => keepDraft(this.state.server?.person, this.composer.current?.text || this.unasked || "");

  get current() {
    return this.state.shared ?? this.state.conversations.find((c) => c.id === this.state.currentId);
  }

  change(conversationId, edit, { save = true, after } = {}) {
    this.setState(({ conversations }) => {
      const changed = conversations.map((c) => (c.id === conversationId ? { ...c, ...edit(c) } : c));
      return { conversations: save ? this.save(changed) : changed };
    }, after);
  }

  changeMessage(conversationId, messageId, patch, options) {
    const swap = (m) => (m.id === messageId ? { ...m, ...patch } : m);
    this.change(conversationId, (c) => ({ messages: c.messages.map(swap) }), options);
  }

  // --- asking

  send = (text) => {
    let conversation = this.current;
    if (conversation && !conversation.messages) return; // it is still being opened
    if (!conversation) {
      conversation = { id: newId(), title: titleOf(text), updated: Date.now(), messages: [] };
      this.setState(({ conversations }) => ({ conversations: [conversation, ...conversations], currentId: conversation.id }));
    }
    this.answer(conversation.id, [...conversation.messages, { id: newId(), role: "user", content: text }]);
  };

  /** Let the last question of `messages` be answered; they become the conversation. */
  async answer(conversationId, messages) {
    if (this.state.busy) return;
    this.setState({ busy: true, panel: null, said: "Reading the documents" });
    const model = this.state.model ?? (await this.connected); // asked before the server has said what it serves
    const writing = { id: newId(), role: "assistant", content: "", citations: [], steps: [], info: null, status: "writing", model };
    this.abort = new AbortController();
    this.change(conversationId, () => ({ messages: [...messages, writing], updated: Date.now() }), {
      after: () => this.thread.current?.toEnd(),
    });
    const draft = { content: "", citations: [], steps: [], info: null };
    const paint = oncePerFrame(() => this.changeMessage(conversationId, writing.id, { ...draft }, { save: false }));
    const request = { model, messages: asked(messages), sessionId: conversationId, after: lastTurn(messages) };
    const outcome = await this.stream(request, draft, paint);
    paint.cancel();
    this.abort = null;
    this.setState({ busy: false, said: spoken(outcome, draft) });
    this.changeMessage(conversationId, writing.id, { ...draft, ...outcome });
  }

  async stream(request, draft, paint) {
    try {
      await ask(request, (chunk) => { take(draft, chunk); paint(); }, this.abort.signal);
      return { status: "done" };
    } catch (error) {
      if (error.name === "AbortError") return { status: "stopped" };
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) this.unasked = request.messages.at(-1).content;
      if (error.status === 401 || error.code === "sign_in_needed") this.fail(error);
      const gone = error.code === "sign_in_needed" && "You were signed out before this could be answered.";
      return { status: "failed", error: gone || sentence(error.message) };
    }
  }

  stop = () => {
    this.abort?.abort();
    this.composer.current?.focus();
  };

  // --- what the parts of the page can do

  actions = {
    regenerate: (message) => this.redo((messages) => messages.slice(0, messages.indexOf(message))),
    resend: (message, content) =>
      this.redo((messages) => [...messages.slice(0, messages.indexOf(message)), { ...message, id: newId(), content: content.trim() }]),
    setFeedback: (message, feedback) => this.changeMessage(this.state.currentId, message.id, { feedback }),
    openPassage: (message, citation, opener) => this.openPassage(message, citation, opener),
    begin: () => {
      this.leaveShared();
      this.setState({ currentId: null, panel: null, drawer: false }, () => this.composer.current.focus());
    },
    open: (conversation) => this.open(conversation),
    rename: (conversation, title) => this.attempt(async () => {
      if (this.state.server?.person) await kept.rename(conversation.id, title);
      const named = (list) => list && list.map((c) => (c.id === conversation.id ? { ...c, title } : c));
      this.setState(({ conversations, found }) => ({ conversations: this.save(named(conversations)), found: named(found) }));
    }),
    remove: (conversation) => this.attempt(async () => {
      const own = Boolean(this.state.server?.person);
      if (!confirm(`Delete “${conversation.title}” ${own ? "for good" : "from this browser"}?`)) return;
      if (own) await kept.remove(conversation.id);
      this.forget((c) => c.id !== conversation.id, "Conversation deleted");
    }),
    removeAll: () => this.attempt(async () => {
      if (!confirm("Delete all your conversations for good?")) return;
      await kept.removeAll();
      this.forget(() => false, "All conversations deleted");
    }),
    signOut: async (everywhere) => location.assign(await signOut(everywhere)),
    search: (words) => this.attempt(async () => {
      this.wanted = words;
      const { server, conversations } = this.state;
      const found = !words ? null : server?.person ? (await listKept({ words })).list : search(conversations, words);
      if (this.wanted === words) this.setState({ found }); // and not an earlier search that took longer
    }),
    older: () => this.attempt(async () => {
      const before = this.state.conversations.reduce((a, b) => (a.updated < b.updated ? a : b)).id;
      const { list, more } = await listKept({ before });
      this.setState(({ conversations }) => ({ conversations: merged(conversations, list), more }));
    }),
    toggleDrawer: () => this.toggleDrawer(),
    ask: (question) => this.send(question),
  };

  async open(conversation) {
    this.leaveShared();
    const known = this.state.conversations.find((c) => c.id === conversation.id) ?? conversation;
    this.setState(({ conversations }) => ({
      conversations: merged(conversations, [known]), currentId: known.id, panel: null, drawer: false,
    }), () => {
      this.thread.current?.toEnd();
      this.composer.current.focus();
    });
    if (known.messages) return;
    await this.attempt(async () => {
      const { turns, shared_at: shared } = await kept.read(known.id);
      const opened = () => this.thread.current?.toEnd();
      this.change(known.id, (c) => (c.messages ? {} : { messages: messagesOf(turns), shared }), { after: opened });
    });
  }

  /** Back to one's own conversations, where a link of somebody else's was open. */
  leaveShared() {
    if (!this.state.shared) return;
    history.replaceState(null, "", "/");
    this.setState({ shared: null });
  }

  forget(stays, said) {
    this.setState(({ conversations, found, currentId }) => ({
      conversations: this.save(conversations.filter(stays)),
      found: found && found.filter(stays),
      currentId: conversations.some((c) => c.id === currentId && stays(c)) ? currentId : null,
      panel: null,
      said,
    }), () => this.composer.current?.focus());
  }

  redo(edit) {
    if (this.current) this.answer(this.current.id, edit(this.current.messages));
  }

  toggleDrawer = () => {
    const drawer = !this.state.drawer;
    this.setState({ drawer }, () => {
      if (drawer) document.querySelector(".sidebar .new").focus();
      else this.menu.current?.focus();
    });
  };

  async openPassage(message, citation, opener) {
    const panel = { citation, opener, view: null, failure: "" };
    const still = (patch) => this.setState(({ panel: now }) => (now?.citation === citation ? { panel: { ...now, ...patch } } : {}));
    this.setState({ panel });
    try {
      still({ view: await openPassage(message.model, citation) });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      still({ failure: `The source could not be opened: ${error.message}` });
    }
  }

  closePanel = () => {
    const { opener } = this.state.panel;
    this.setState({ panel: null }, () => (opener.isConnected ? opener : this.composer.current).focus());
  };

  render(_, { server, keyNeeded, trouble, signedOut, conversations, found, more, shared, currentId, model, busy, panel, drawer, narrow, said }) {
    const endpoint = server?.endpoints.find((e) => e.name === model);
    const title = endpoint?.title ?? "Chat";
    document.title = this.current ? `${this.current.title} – ${title}` : title;
    // What an overlay covers can't be reached; the page's main part and its heading stay known to assistive technology.
    const covered = Boolean(narrow && (drawer || panel));
    return html`
      <div class=${`layout${drawer ? " drawn" : ""}${panel ? " with-panel" : ""}`}>
        ${!shared && html`<a class="skip" href="#question">Skip to the question</a>`}
        <${Sidebar} conversations=${conversations} found=${found} more=${more} currentId=${shared ? null : currentId}
          actions=${this.actions} registry=${server?.registry} person=${server?.person} drawer=${narrow && !drawer ? "shut" : "open"} />
        <main>
          <header class="top">
            <button ref=${this.menu} type="button" class="tool only-narrow" onClick=${this.toggleDrawer} inert=${covered}
              aria-label="Conversations" aria-expanded=${drawer} aria-controls="sidebar">${icons.menu()}</button>
            <h1>${title}</h1>
            ${server?.endpoints.length > 1 && html`<${ModelChoice} server=${server} model=${model} inert=${covered}
              onChange=${(name) => this.setState({ model: name })} />`}
            ${server?.sharing && !shared && this.current?.messages?.length > 0 && html`<${ShareButton} key=${currentId} inert=${covered}
              conversation=${this.current} onShared=${(at) => this.change(currentId, () => ({ shared: at }))} />`}
            <${ThemeButton} inert=${covered} />
          </header>
          <${Thread} handle=${this.thread} conversation=${this.current} busy=${busy || Boolean(shared)} actions=${this.actions} inert=${covered}
            title=${title} suggestions=${endpoint?.suggestions ?? []} />
          ${trouble && html`<p class="failure trouble" role="alert">${trouble}
            <button type="button" class="plain" onClick=${this.connect}>Try again</button></p>`}
          ${shared
            ? html`<p class="shared" inert=${covered}>This conversation was shared with you.
                <button type="button" class="primary" onClick=${this.actions.begin}>New chat</button></p>`
            : html`<${Composer} handle=${this.composer} busy=${busy} inert=${covered} limit=${server?.question_chars ?? 8000}
                onSend=${this.send} onStop=${this.stop} />`}
        </main>
        ${panel && html`<${PassagePanel} citation=${panel.citation} view=${panel.view} failure=${panel.failure}
          onClose=${this.closePanel} />`}
        ${signedOut && html`<${SignedOutDialog} onSignIn=${this.keepDraft} onClose=${() => this.setState({ signedOut: false })} />`}
        ${keyNeeded !== null && html`<${KeyDialog} refused=${keyNeeded} onKey=${this.connect} />`}
        <p class="unseen" role="status" aria-live="polite">${said}</p>
      </div>`;
  }
}

function ModelChoice({ server, model, inert, onChange }) {
  return html`
    <label class="model" inert=${inert}><span class="unseen">Answered by</span>
      <select value=${model} onChange=${(event) => onChange(event.currentTarget.value)}>
        ${server.endpoints.map((e) => html`<option key=${e.name} value=${e.name}>${e.title}</option>`)}
      </select></label>`;
}

/** What the server needs of the messages: failed and empty answers are no part of the conversation. */
function asked(messages) {
  return messages.filter((m) => m.content).map(({ role, content }) => ({ role, content }));
}

/** The turn that a question follows: the last one before it that the server knows. */
function lastTurn(messages) {
  const answer = messages.findLast((m) => m.turn ?? m.info);
  return answer ? (answer.turn ?? answer.info.request_id) : null;
}

function take(draft, chunk) {
  const delta = chunk.choices?.[0]?.delta ?? {};
  if (delta.content) draft.content += delta.content;
  if (delta.citations) draft.citations = [...draft.citations, ...delta.citations];
  if (delta.steps) draft.steps = [...draft.steps, ...delta.steps];
  if (chunk.llmops) draft.info = chunk.llmops;
}

function spoken(outcome, draft) {
  if (outcome.status === "stopped") return "Answer stopped";
  if (outcome.status === "failed") return ""; // its alert speaks
  const sources = draft.citations.length;
  return `Answer finished${sources ? `, with ${sources} ${sources === 1 ? "source" : "sources"}` : ""}`;
}

// The server's errors begin in lower case, for terminals.
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function oncePerFrame(work) {
  let frame = 0;
  const ask = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      work();
    });
  };
  ask.cancel = () => cancelAnimationFrame(frame);
  return ask;
}

render(html`<${App} />`, document.getElementById("app"));
