// The same place of the head at every visit: moves between them, and scenes whose crosshairs go together.

import {jump} from "./scene.js";

/** A place in mm, moved by a 4x4 matrix (rows). */
export function moved(matrix, mm) {
  return matrix.slice(0, 3).map(row => row[0] * mm[0] + row[1] * mm[1] + row[2] * mm[2] + row[3]);
}

/** The way back of a rigid move: its turn transposed, its shift undone. */
export function inverse(matrix) {
  const turn = [0, 1, 2].map(row => [0, 1, 2].map(column => matrix[column][row]));
  const shift = matrix.slice(0, 3).map(row => row[3]);
  return turn.map(row => [...row, -(row[0] * shift[0] + row[1] * shift[1] + row[2] * shift[2])]);
}

/**
 * Crosshairs that follow each other. A visit's matrix leads from a place at the first visit to it.
 * @returns {{add: (scene: Object, matrix: number[][]) => void, onPlace: (matrix: number[][], mm: number[]) => void,
 *   go: (matrix: number[][], mm: number[]) => void}} `onPlace` for a place that one scene tells, `go` for all
 */
export function linkedScenes() {
  const scenes = [];
  let isMoving = false;
  const go = (from, mm, isOther) => {
    if (isMoving) return;
    isMoving = true; // each jump tells its own place again
    try {
      const first = moved(inverse(from), mm);
      for (const {scene, matrix} of scenes) if (isOther(matrix)) jump(scene, moved(matrix, first));
    } finally {
      isMoving = false;
    }
  };
  return {
    add: (scene, matrix) => scenes.push({scene, matrix}),
    onPlace: (matrix, mm) => go(matrix, mm, other => other !== matrix),
    go: (matrix, mm) => go(matrix, mm, () => true),
  };
}
