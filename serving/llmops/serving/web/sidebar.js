// The reader's conversations: open, rename, delete, begin a new one; and the theme.
import { Component, createRef, html } from "./dom.js";
import { groupByAge } from "./history.js";
import { icons } from "./icons.js";

class Entry extends Component {
  state = { renaming: false };
  field = createRef();
  button = createRef();

  rename = () => this.setState({ renaming: true }, () => this.field.current.select());

  finish = (keep) => {
    if (!this.state.renaming) return;
    const title = this.field.current.value.trim();
    this.setState({ renaming: false }, () => this.button.current?.focus());
    if (keep && title) this.props.actions.rename(this.props.conversation, title);
  };

  onKey = (event) => {
    if (event.key === "Enter") {
      event.preventDefault(); // the focus moves to a button, which would take the key as its own
      this.finish(true);
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      this.finish(false);
    }
  };

  render({ conversation, current, actions }, { renaming }) {
    const { title } = conversation;
    if (renaming) {
      return html`<li class="entry"><input ref=${this.field} defaultValue=${title} aria-label="Name of the conversation"
        maxlength="120" onKeyDown=${this.onKey} onBlur=${() => this.finish(true)} /></li>`;
    }
    return html`
      <li class=${current ? "entry current" : "entry"}>
        <button type="button" class="open" aria-current=${current ? "page" : null} title=${title}
          onClick=${() => actions.open(conversation)}>${title}</button>
        <button ref=${this.button} type="button" class="tool" onClick=${this.rename} aria-label=${`Rename ${title}`} title="Rename">${icons.rename()}</button>
        <button type="button" class="tool" onClick=${() => actions.remove(conversation)} aria-label=${`Delete ${title}`} title="Delete">${icons.trash()}</button>
      </li>`;
  }
}

const THEMES = { auto: ["light", "Theme: as the system"], light: ["dark", "Theme: light"], dark: ["auto", "Theme: dark"] };
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

export class ThemeButton extends Component {
  state = { theme: document.documentElement.dataset.theme ?? "auto" };

  turn = () => {
    const [theme] = THEMES[this.state.theme];
    if (theme === "auto") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("llmops.theme");
    } else {
      document.documentElement.dataset.theme = theme;
      localStorage.setItem("llmops.theme", theme);
    }
    this.setState({ theme });
  };

  render({ inert }, { theme }) {
    const label = THEMES[theme][1];
    return html`<button type="button" class="tool theme" inert=${inert} onClick=${this.turn} aria-label=${label} title=${label}>${icons[THEME_ICONS[theme]]()}</button>`;
  }
}

class Search extends Component {
  state = { words: "" };

  change = (event) => {
    const words = event.currentTarget.value;
    this.setState({ words });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.props.onSearch(words.trim()), 200);
  };

  render({ count }, { words }) {
    return html`
      <div class="search" role="search">
        <label class="unseen" for="search">Search your conversations</label>
        <input id="search" type="search" value=${words} placeholder="Search" maxlength="200" onInput=${this.change} />
        <p class="unseen" role="status">${count == null ? "" : `${count} found`}</p>
      </div>`;
  }
}

function Account({ person, actions }) {
  return html`
    <details class="account">
      <summary>${person.name}</summary>
      <button type="button" class="plain" onClick=${actions.removeAll}>Delete all conversations</button>
      <button type="button" class="plain" onClick=${() => actions.signOut(false)}>Sign out</button>
      <button type="button" class="plain" onClick=${() => actions.signOut(true)}>Sign out everywhere</button>
    </details>`;
}

const empty = (found, person) =>
  found ? "Nothing found." : `Your conversations will be listed here. ${person ? "Only you see them." : "They stay in this browser."}`;

export function Sidebar({ conversations, found, more, currentId, actions, drawer, registry, person }) {
  const listed = found ?? conversations;
  return html`
    <nav class="sidebar" id="sidebar" aria-label="Conversations" inert=${drawer === "shut"}>
      <div class="bar">
        <button type="button" class="new" onClick=${actions.begin}>${icons.plus()} New chat</button>
        <button type="button" class="tool only-narrow" onClick=${actions.toggleDrawer} aria-label="Close the list">${icons.close()}</button>
      </div>
      ${(conversations.length > 0 || found) && html`<${Search} count=${found?.length} onSearch=${actions.search} />`}
      <div class="scroll">
        ${groupByAge(listed).map(([name, list]) => html`
          <section key=${name} aria-label=${name}>
            <p class="age">${name}</p>
            <ul>${list.map((c) => html`<${Entry} key=${c.id} conversation=${c} current=${c.id === currentId} actions=${actions} />`)}</ul>
          </section>`)}
        ${listed.length === 0 && html`<p class="age">${empty(found, person)}</p>`}
        ${more && !found && html`<button type="button" class="plain older" onClick=${actions.older}>Show older ones</button>`}
      </div>
      <div class="foot">
        ${registry && html`<p class="next-door"><a href=${registry}>Registry</a></p>`}
        ${person && html`<${Account} person=${person} actions=${actions} />`}
      </div>
    </nav>`;
}
