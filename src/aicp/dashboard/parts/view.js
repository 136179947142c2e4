// What pages are written with: templates that become nodes. Every value in a template is text, never markup.
export { html, render, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact-htm.js";
