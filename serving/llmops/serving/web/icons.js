// Line icons, 20 x 20, drawn for this page. They are decoration: the buttons around them carry the words.
import { html } from "./dom.js";

const icon = (...paths) =>
  html`<svg viewBox="0 0 20 20" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.6"
    stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${paths.map((d) => html`<path d=${d} />`)}</svg>`;

export const icons = {
  send: () => icon("M10 16V4", "M5 9l5-5 5 5"),
  stop: () => html`<svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true"><rect x="5" y="5" width="10" height="10" rx="2" fill="currentColor" /></svg>`,
  up: () => icon("M7 17V9l3-6c1.2 0 2 .9 1.8 2.1L11.3 8H16a1.5 1.5 0 0 1 1.5 1.8l-1 5.5A2 2 0 0 1 14.500 17H7z", "M7 9H3.500v8H7"),
  down: () => icon("M13 3v8l-3 6c-1.200 0-2-.9-1.800-2.100L8.700 12H4a1.500 1.500 0 0 1-1.500-1.800l1-5.500A2 2 0 0 1 5.500 3H13z", "M13 11h3.500V3H13"),
  copy: () => icon("M7 7V4.500A1.500 1.500 0 0 1 8.500 3h7A1.500 1.500 0 0 1 17 4.500v7a1.500 1.500 0 0 1-1.500 1.500H13", "M4.500 7h7A1.500 1.500 0 0 1 13 8.500v7a1.500 1.500 0 0 1-1.500 1.500h-7A1.500 1.500 0 0 1 3 15.500v-7A1.500 1.500 0 0 1 4.500 7z"),
  again: () => icon("M16 10a6 6 0 1 1-1.800-4.300", "M16 3v3.500h-3.500"),
  edit: () => icon("M4 16l.7-3.500L13 4.200a1.600 1.600 0 0 1 2.300 0l.5.5a1.600 1.600 0 0 1 0 2.300L7.500 15.300z"),
  rename: () => icon("M4 16l.7-3.500L13 4.200a1.600 1.600 0 0 1 2.300 0l.5.5a1.600 1.600 0 0 1 0 2.300L7.500 15.300z"),
  trash: () => icon("M4 6h12", "M8 6V4h4v2", "M5.500 6l.7 9.500A1.500 1.500 0 0 0 7.700 17h4.600a1.500 1.500 0 0 0 1.500-1.500L14.500 6"),
  plus: () => icon("M10 4v12", "M4 10h12"),
  menu: () => icon("M3 6h14", "M3 10h14", "M3 14h14"),
  close: () => icon("M5 5l10 10", "M15 5L5 15"),
  sun: () => icon("M10 6.500a3.500 3.500 0 1 0 0 7 3.500 3.500 0 0 0 0-7z", "M10 2v1.500", "M10 16.500V18", "M2 10h1.500", "M16.500 10H18", "M4.300 4.300l1.100 1.100", "M14.600 14.600l1.100 1.100", "M4.300 15.700l1.100-1.100", "M14.600 5.400l1.100-1.100"),
  moon: () => icon("M16.500 11.500A7 7 0 0 1 8.500 3.500a7 7 0 1 0 8 8z"),
  auto: () => icon("M10 3a7 7 0 1 0 0 14z", "M10 3a7 7 0 0 1 0 14"),
  share: () => icon("M10 12.500V3", "M6.500 6L10 2.500 13.500 6", "M4.500 10v5.500A1.500 1.500 0 0 0 6 17h8a1.500 1.500 0 0 0 1.500-1.500V10"),
  check: () => icon("M4 10.500l4 4 8-9"),
};
