// Images are chosen by split, label and its state, problem, and text. Without this script all of them are shown.
for (const tools of document.querySelectorAll("#choose")) {
  const photos = Array.from(document.querySelectorAll(".photo"), (photo) => {
    const columns = (list) => new Set((list ?? "").split(" ").filter(Boolean));
    const { split, problems, present, absent, unknown } = photo.dataset;
    return {
      photo, split, problems: columns(problems), present: columns(present),
      absent: absent === undefined ? null : columns(absent), unknown: columns(unknown),
      text: Array.from(photo.querySelectorAll(".chips, .file"), (part) => part.textContent).join(" ").toLowerCase(),
    };
  });
  const chosen = (by) => tools.querySelector(`[data-by="${by}"]`)?.value ?? "";
  const stateOf = (image, column) => {
    if (image.present.has(column)) return "present";
    if (image.absent) return image.absent.has(column) ? "absent" : "unknown";
    return image.unknown.has(column) ? "unknown" : "absent";
  };
  const choose = () => {
    const [split, label, state, problem] = ["split", "label", "state", "problem"].map(chosen);
    const words = chosen("text").toLowerCase().split(/\s+/).filter(Boolean);
    tools.querySelector('[data-by="state"]').disabled = label === "" || label === "none";
    let shown = 0;
    for (const image of photos) {
      const matches = (!split || image.split === split) && (!problem || image.problems.has(problem))
        && (!label || (label === "none" ? image.present.size === 0 : stateOf(image, label) === state))
        && words.every((word) => image.text.includes(word));
      image.photo.hidden = !matches;
      shown += matches ? 1 : 0;
    }
    tools.querySelector("output").textContent = `${shown.toLocaleString("en")} of ${photos.length.toLocaleString("en")} images`;
  };
  tools.hidden = false;
  tools.addEventListener("input", choose);
  choose();
}
