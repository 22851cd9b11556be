// Loads a GLB and draws it in poses; render.mjs calls window.load and window.draw.
import * as THREE from "three";
import { RoomEnvironment } from "three/addons/environments/RoomEnvironment.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
document.body.append(renderer.domElement);
const room = new THREE.PMREMGenerator(renderer).fromScene(new RoomEnvironment(), 0.04).texture;
const lamp = new THREE.DirectionalLight(0xffffff, 0.9);
lamp.position.set(0.3, 0.5, 1);
let gltf, mixer, scene;

const meshes = () => {
  const found = [];
  gltf.scene.traverse((item) => item.isMesh && found.push(item));
  return found;
};

// Returns what the file holds by three.js' own account.
window.load = async (url) => {
  gltf = await new GLTFLoader().loadAsync(url);
  mixer = new THREE.AnimationMixer(gltf.scene);
  for (const clip of gltf.animations) mixer.clipAction(clip).play();
  scene = new THREE.Scene();
  scene.background = new THREE.Color(0xf4f2ec);
  scene.add(gltf.scene, lamp);
  return {
    meshes: meshes().map((mesh) => ({
      name: mesh.name,
      vertices: mesh.geometry.attributes.position.count,
      morphs: mesh.morphTargetDictionary ?? {},
      material: mesh.material.type,
      vertexColors: mesh.material.vertexColors,
      map: mesh.material.map?.image.width ?? 0,
    })),
    duration: gltf.animations[0]?.duration ?? 0,
    tracks: gltf.animations.flatMap((clip) => clip.tracks.map((track) => track.name)),
  };
};

// Poses and draws; returns PNG and the world positions of some vertices. angle: degrees of the camera about +y.
window.draw = async ({ size = 512, angle = 0, distance = 0.62, fov = 30, target = [0, 0, -0.02], weights = {}, turns = {}, time, room: lit = true, probes = {} }) => {
  renderer.setSize(size, size);
  for (const mesh of meshes()) {
    mesh.morphTargetInfluences?.fill(0);
    for (const [name, value] of Object.entries(weights)) {
      const index = mesh.morphTargetDictionary?.[name];
      if (index !== undefined) mesh.morphTargetInfluences[index] = value;
    }
  }
  for (const [name, [axis, degrees]] of Object.entries(turns))
    gltf.scene.getObjectByName(name).quaternion.setFromAxisAngle(new THREE.Vector3(...axis), (degrees * Math.PI) / 180);
  scene.environment = lit ? room : null;
  scene.environmentIntensity = 0.6;
  const camera = new THREE.PerspectiveCamera(fov, 1, 0.01, 10);
  if (time === undefined) {
    const radians = (angle * Math.PI) / 180;
    camera.position.set(distance * Math.sin(radians), target[1], distance * Math.cos(radians));
    camera.lookAt(...target);
  } else {
    mixer.setTime(time); // an animated head stands where the camera at the origin saw it
  }
  scene.updateMatrixWorld(true);
  renderer.render(scene, camera);
  const positions = {};
  for (const [name, ids] of Object.entries(probes)) {
    const mesh = gltf.scene.getObjectByName(name);
    positions[name] = ids.map((id) => mesh.localToWorld(mesh.getVertexPosition(id, new THREE.Vector3())).toArray());
  }
  return { png: renderer.domElement.toDataURL("image/png"), positions };
};
window.ready = true;
