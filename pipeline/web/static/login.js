// A wrong token brings the reader back here with ?wrong.

const problem = document.querySelector("#problem");
if (new URLSearchParams(location.search).has("wrong")) {
  problem.textContent = "This is not the server’s token; copy it again from the file that was given with --token-file.";
  problem.hidden = false;
}
