// An answer's Markdown as DOM. Whatever the text holds is data: tags and links outside a short list never reach the page.
import DOMPurify from "./vendor/purify.es.mjs";
import { Marked } from "./vendor/marked.esm.js";

let topHeading = 1; // depth of the highest heading in the answer being rendered

const marked = new Marked({
  gfm: true,
  tokenizer: {
    def: () => undefined, // "[1]: ..." is no link definition here: it would swallow citations
  },
  renderer: {
    html({ text }) {
      return escapeText(text); // raw HTML is shown as the text it is
    },
    heading({ tokens, depth }) {
      const level = Math.max(3, Math.min(6, 3 + depth - topHeading)); // h1 and h2 are the page's own
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

const CLEAN = {
  ALLOWED_TAGS: ["p", "br", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "hr", "a", "table", "thead",
    "tbody", "tr", "th", "td", "h3", "h4", "h5", "h6", "sup", "sub"],
  ALLOWED_ATTR: ["href", "title", "start", "align"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

function escapeText(text) {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
}

/** Split a text into blocks; all but the last are finished while an answer streams. */
export function splitBlocks(text) {
  return marked.lexer(text).filter((token) => token.type !== "space").map((token) => token.raw);
}

/** The depth of a text's highest heading, so that an answer's headings follow the page's without a gap. */
export function topHeadingOf(text) {
  return Math.min(6, ...[...text.matchAll(/^ {0,3}(#{1,6})\s/gm)].map(([, marks]) => marks.length));
}

/** One block as a DOM fragment, its [n] markers as chips for the citations that are known. */
export function renderBlock({ raw, top, citations, onCite }) {
  topHeading = top;
  const fragment = DOMPurify.sanitize(marked.parser(marked.lexer(raw)), CLEAN);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const wide of fragment.querySelectorAll("table, pre")) wrapWide(wide);
  placeChips(fragment, citations, onCite);
  return fragment;
}

function wrapWide(element) {
  const box = document.createElement("div");
  box.className = "wide";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", element.tagName === "TABLE" ? "Table" : "Code");
  element.replaceWith(box);
  box.append(element);
}

function placeChips(fragment, citations, onCite) {
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (/\[\d+\]/.test(node.data) && !node.parentElement?.closest("code, pre, a")) texts.push(node);
  }
  for (const text of texts) {
    const pieces = text.data.split(/(\s*\[\d+\])/);
    text.replaceWith(...pieces.map((piece) => chip(piece, citations, onCite)));
  }
}

function chip(piece, citations, onCite) {
  const number = Number(/^\s*\[(\d+)\]$/.exec(piece)?.[1]);
  const citation = citations.find((c) => c.number === number);
  if (!citation) return piece;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.textContent = String(number);
  button.setAttribute("aria-label", `Source ${number}: ${nameOf(citation)}`);
  button.title = nameOf(citation);
  button.addEventListener("click", () => onCite(citation, button));
  return button;
}

export function nameOf(citation) {
  const name = citation.title || citation.uri;
  return citation.page == null ? name : `${name}, page ${citation.page}`;
}
