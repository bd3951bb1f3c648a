// The chat: which conversation is open, which answer is being written, and what the reader's clicks do.
import { ApiError, ask, newId, openPassage, openSession } from "./api.js";
import { Composer } from "./composer.js";
import { Component, createRef, html, render } from "./dom.js";
import { loadConversations, saveConversations, titleOf } from "./history.js";
import { icons } from "./icons.js";
import { KeyDialog } from "./keydialog.js";
import { PassagePanel } from "./passage.js";
import { Sidebar, ThemeButton } from "./sidebar.js";
import { Thread } from "./thread.js";

const NARROW = matchMedia("(max-width: 760px)");

class App extends Component {
  state = {
    server: null, // what /v1/session said
    keyNeeded: null, // null, or why the last key was refused ("" where none was given)
    trouble: "",
    conversations: loadConversations(),
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
    addEventListener("pagehide", () => saveConversations(this.state.conversations));
    this.connected = this.connect();
  }

  connect = async () => {
    try {
      const server = await openSession();
      const model = server.endpoints[0].name;
      this.setState({ server, model, keyNeeded: null, trouble: "" }, () => this.composer.current?.focus());
      return model;
    } catch (error) {
      this.fail(error);
    }
  };

  onKey = (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    if (this.state.panel) this.closePanel();
    else if (this.state.drawer) this.toggleDrawer();
  };

  /** Show an error that belongs to no answer; a missing or refused key opens the dialog. */
  fail(error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) {
      this.setState({ keyNeeded: this.keyTried ? error.message : "" });
      this.keyTried = true;
    } else {
      this.setState({ trouble: error.message });
    }
  }

  get current() {
    return this.state.conversations.find((c) => c.id === this.state.currentId);
  }

  change(conversationId, edit, { save = true, after } = {}) {
    this.setState(({ conversations }) => {
      const changed = conversations.map((c) => (c.id === conversationId ? { ...c, ...edit(c) } : c));
      return { conversations: save ? saveConversations(changed) : changed };
    }, after);
  }

  changeMessage(conversationId, messageId, patch, options) {
    const swap = (m) => (m.id === messageId ? { ...m, ...patch } : m);
    this.change(conversationId, (c) => ({ messages: c.messages.map(swap) }), options);
  }

  // --- asking

  send = (text) => {
    let conversation = this.current;
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
    const outcome = await this.stream({ model, messages: asked(messages), sessionId: conversationId }, draft, paint);
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
      if (error.status === 401) this.fail(error);
      return { status: "failed", error: sentence(error.message) };
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
      this.setState({ currentId: null, panel: null, drawer: false }, () => this.composer.current.focus());
    },
    open: (conversation) => {
      this.setState({ currentId: conversation.id, panel: null, drawer: false }, () => {
        this.thread.current?.toEnd();
        this.composer.current.focus();
      });
    },
    rename: (conversation, title) => this.change(conversation.id, () => ({ title })),
    remove: (conversation) => {
      if (!confirm(`Delete “${conversation.title}” from this browser?`)) return;
      this.setState(({ conversations, currentId }) => ({
        conversations: saveConversations(conversations.filter((c) => c.id !== conversation.id)),
        currentId: currentId === conversation.id ? null : currentId,
        panel: null,
        said: "Conversation deleted",
      }), () => this.composer.current.focus());
    },
    toggleDrawer: () => this.toggleDrawer(),
    ask: (question) => this.send(question),
  };

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

  render(_, { server, keyNeeded, trouble, conversations, currentId, model, busy, panel, drawer, narrow, said }) {
    const endpoint = server?.endpoints.find((e) => e.name === model);
    const title = endpoint?.title ?? "Chat";
    document.title = this.current ? `${this.current.title} – ${title}` : title;
    // What an overlay covers can't be reached; the page's main part and its heading stay known to assistive technology.
    const covered = Boolean(narrow && (drawer || panel));
    return html`
      <div class=${`layout${drawer ? " drawn" : ""}${panel ? " with-panel" : ""}`}>
        <a class="skip" href="#question">Skip to the question</a>
        <${Sidebar} conversations=${conversations} currentId=${currentId} actions=${this.actions}
          registry=${server?.registry} drawer=${narrow && !drawer ? "shut" : "open"} />
        <main>
          <header class="top">
            <button ref=${this.menu} type="button" class="tool only-narrow" onClick=${this.toggleDrawer} inert=${covered}
              aria-label="Conversations" aria-expanded=${drawer} aria-controls="sidebar">${icons.menu()}</button>
            <h1>${title}</h1>
            ${server?.endpoints.length > 1 && html`<${ModelChoice} server=${server} model=${model} inert=${covered}
              onChange=${(name) => this.setState({ model: name })} />`}
            <${ThemeButton} inert=${covered} />
          </header>
          <${Thread} handle=${this.thread} conversation=${this.current} busy=${busy} actions=${this.actions} inert=${covered}
            title=${title} suggestions=${endpoint?.suggestions ?? []} />
          ${trouble && html`<p class="failure trouble" role="alert">${trouble}
            <button type="button" class="plain" onClick=${this.connect}>Try again</button></p>`}
          <${Composer} handle=${this.composer} busy=${busy} inert=${covered} limit=${server?.question_chars ?? 8000}
            onSend=${this.send} onStop=${this.stop} />
        </main>
        ${panel && html`<${PassagePanel} citation=${panel.citation} view=${panel.view} failure=${panel.failure}
          onClose=${this.closePanel} />`}
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
