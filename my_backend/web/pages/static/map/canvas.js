// The canvas of the map: draws the points, and the line or circle around those that a person chooses.

import { drawPoints, radiusOf } from "./raster.js";

const SHARPEST = 2;  // pixels of the canvas for each CSS pixel, across and down

export function makeCanvas(canvas, camera) {
  const pen = canvas.getContext("2d");
  let image = null, scale = 1, asked = false;
  let shown = null;  // {points, order, styles, isFull, colors}; see raster.js
  let path = [], circle = null, marked = -1;  // on top of the points

  new ResizeObserver(() => {
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return;  // it is hidden
    scale = Math.min(devicePixelRatio, SHARPEST);
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    image = pen.createImageData(canvas.width, canvas.height);
    camera.resize(width, height);
    paint();
  }).observe(canvas);

  function draw() {
    if (!asked) requestAnimationFrame(paint);
    asked = true;
  }

  function paint() {
    asked = false;
    if (!image || !shown) return;
    drawPoints(image, { ...shown, camera, scale, ground: shown.colors.ground });
    pen.putImageData(image, 0, 0);
    pen.save();
    pen.scale(scale, scale);
    if (marked >= 0) round(camera.x(shown.points.x[marked]), camera.y(shown.points.y[marked]), radiusOf(shown.points.count, camera.zoom()) + 4);
    if (path.length) line();
    if (circle) round(...circle.place, circle.radius, true);
    pen.restore();
  }

  function line() {
    pen.beginPath();
    for (const [x, y] of path) pen.lineTo(x, y);
    pen.closePath();
    stroke(true);
  }

  function round(x, y, radius, isFilled = false) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    stroke(isFilled);
  }

  function stroke(isFilled) {
    const style = getComputedStyle(canvas);
    pen.fillStyle = pen.strokeStyle = style.accentColor;
    pen.globalAlpha = 0.12;
    if (isFilled) pen.fill();
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.stroke();
  }

  return {
    draw,
    show: (next) => { shown = next; draw(); },
    lasso: (next) => { path = next; draw(); },
    circle: (next) => { circle = next; draw(); },
    mark: (next) => { if (next !== marked) { marked = next; draw(); } },
  };
}
