import { readFileSync } from "node:fs";

/** The lines that have their line feed: what comes after the last one is still being written by another process. */
export const wholeLines = (text) => text.split("\n").slice(0, -1);

/** One document on each line. */
export const jsonLines = (text) => wholeLines(text).map((line) => JSON.parse(line));

/** The same of a file that another process appends to. */
export const readJsonLines = (file) => jsonLines(readFileSync(file, "utf8"));
